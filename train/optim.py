"""All parameters of a network as one vector, AdamW on it, and the schedules of the rates.

Shapes: P numbers in the vector, N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.presets import TrainConfig

MAPS = {"qkv": 3, "gate_up": 2}  # that share a matrix, because one product is faster than several
ALIGNED = 32  # numbers: compiled kernels want tensors that begin at multiples of 16 bytes
EPS = 1e-8


class Parameters:
    """The parameters of a network, which become views of one vector: `values` (P,), float32.

    Muon's matrices stand first, those of one shape side by side, `by_muon` numbers in all. Other matrices follow, and
    from `decayed` on what is no matrix. Gaps between them hold zeros. Without `muon` AdamW moves everything; with it
    Muon moves the matrices inside the blocks: orthogonalised updates suit maps from activations to activations, and
    not the embedding, the head or a norm.
    """

    def __init__(self, network: nn.Module, *, muon: bool) -> None:
        named = dict(network.named_parameters())
        inner = [name for name, p in named.items() if p.ndim == 2 and name.startswith("blocks.") and muon]
        inner.sort(key=lambda name: self.map_shape(name, named[name]))
        outer = [name for name, p in named.items() if p.ndim == 2 and name not in inner]
        vectors = [name for name, p in named.items() if p.ndim < 2]
        self.list = [named[name] for name in (*inner, *outer, *vectors)]
        self.places, end = [], 0
        for number, parameter in enumerate(self.list):
            end = end if number < len(inner) else -(-end // ALIGNED) * ALIGNED  # a gap would part a stack
            self.places.append(end)
            end += parameter.numel()
        starts = [*self.places, end]
        self.by_muon, self.decayed = starts[len(inner)] if inner else 0, starts[len(inner) + len(outer)]
        self.stacked = [
            (shape, sum(named[name].numel() for name in names))
            for shape, names in groupby(inner, key=lambda name: self.map_shape(name, named[name]))
        ]
        self.values = torch.zeros(end, device=self.list[0].device)
        torch._foreach_copy_(self.views(self.values), [p.detach() for p in self.list])
        for parameter, view in zip(self.list, self.views(self.values), strict=True):
            parameter.data = view

    @staticmethod
    def map_shape(name: str, matrix: Tensor) -> tuple[int, int]:
        """(R, C) of the maps that stand one above the other in a matrix; each is orthogonalised on its own."""
        return matrix.shape[0] // MAPS.get(name.split(".")[-2], 1), matrix.shape[1]

    def views(self, vector: Tensor) -> list[Tensor]:
        """The part of a vector (P,) that belongs to each parameter, in its shape."""
        return [vector[at : at + p.numel()].view(p.shape) for at, p in zip(self.places, self.list, strict=True)]

    def stacks(self, vector: Tensor) -> list[Tensor]:
        """Muon's part of a vector, (N, R, C) for each shape: views."""
        parts = vector[: self.by_muon].split([size for _, size in self.stacked])
        return [part.view(-1, *shape) for (shape, _), part in zip(self.stacked, parts, strict=True)]


class Rates(NamedTuple):
    """What the schedule sets for each update. A step reads them from a tensor: a Python number would stay in a CUDA
    graph what it was when the graph was captured."""

    lr: float  # AdamW's
    beta1: float
    beta2: float
    muon_lr: float
    momentum: float


def rates(config: TrainConfig, position: float, total: int) -> Rates:
    """The rates at `position` of the `total` updates (0 is the first)."""
    share = schedule(config, position, total)
    first = beta1(config, position, total)
    return Rates(share * config.lr, first, config.beta2, share * config.muon_lr, config.momentum)


def adamw(
    weights: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    *,
    rates: Rates,
    updates: Tensor,
    on: Tensor,
    decayed: Tensor,
    weight_decay: float,
) -> None:
    """Moves weights (P,), of which the part `decayed` decays, and their moments `mean` and `square` (P,), by AdamW.

    The rates are tensors (), and so is the number of `updates`, this one included. Where `on` () is 0 and not 1,
    nothing moves. torch.optim.AdamW computes the same, but a CUDA graph cannot change its betas.
    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", 2019.
    """
    lr = rates.lr * on
    if weight_decay:
        decayed.mul_(1 - lr * weight_decay)
    mean.lerp_(gradient, (1 - rates.beta1) * on)
    square.lerp_(gradient * gradient, (1 - rates.beta2) * on)
    deviation = (square / (1 - rates.beta2**updates)).sqrt_().add_(EPS)
    weights.sub_((mean / deviation).mul_(lr / (1 - rates.beta1**updates)))


def schedule(config: TrainConfig, position: float, total: int) -> float:
    """The learning rate as a share of its peak, at `position` of the `total` updates (0 is the first).

    onecycle is torch's OneCycleLR with anneal_strategy="linear".
    """
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "onecycle":
        first = 1 / config.div_factor
        return onecycle(config, position, total, first, 1.0, first / config.final_div_factor)
    # The first and the last update still move the weights: the rate is never quite zero.
    progress = min(position / total, 1 - 1 / total)
    rise = (position + 1) / total / config.warmup if config.warmup else 1.0
    fall = (1 - progress) / config.cooldown if config.cooldown else 1.0
    return min(1.0, rise, fall)


def beta1(config: TrainConfig, position: float, total: int) -> float:
    """AdamW's first beta there: OneCycleLR moves it against the rate, between torch's defaults."""
    if config.schedule != "onecycle":
        return config.beta1
    low, high = 0.85, 0.95
    return onecycle(config, position, total, high, low, high)


def onecycle(config: TrainConfig, position: float, total: int, first: float, peak: float, last: float) -> float:
    """Linear from `first` to `peak`, which stands at pct_start * total - 1, and on to `last` at total - 1."""
    turn = max(config.pct_start * total - 1, 0.0)
    if position < turn:
        return first + (peak - first) * position / turn
    return peak + (last - peak) * min((position - turn) / max(total - 1 - turn, 1.0), 1.0)
