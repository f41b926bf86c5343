"""All parameters of a network as one vector, AdamW on that vector, and the schedules of the rates.

Shapes: P numbers in the vector, N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.presets import TrainConfig

MAPS_PER_MATRIX = {"qkv": 3, "gate_up": 2}  # maps stored in one matrix, because one product is faster than several
ALIGNMENT = 32  # numbers: compiled kernels need tensors that begin at multiples of 16 bytes
EPS = 1e-8


class Parameters:
    """Makes the parameters of a network views of one vector: `values` (P,), float32.

    The matrices for Muon come first and end at `muon_end`; those of one shape are side by side. The other matrices
    follow and end at `matrices_end`. All other parameters follow that. Gaps between parameters hold zeros.
    Without `muon`, AdamW updates everything. With it, Muon updates the matrices inside the blocks: orthogonalised
    updates suit maps from activations to activations, but not the embedding, the head or a norm.
    """

    def __init__(self, network: nn.Module, *, muon: bool) -> None:
        named = dict(network.named_parameters())
        inner = [name for name, p in named.items() if p.ndim == 2 and name.startswith("blocks.") and muon]
        inner.sort(key=lambda name: self.map_shape(name, named[name]))
        outer = [name for name, p in named.items() if p.ndim == 2 and name not in inner]
        vectors = [name for name, p in named.items() if p.ndim < 2]
        self.list = [named[name] for name in (*inner, *outer, *vectors)]
        self.offsets, end = [], 0
        for number, parameter in enumerate(self.list):
            end = end if number < len(inner) else -(-end // ALIGNMENT) * ALIGNMENT  # a gap would split a stack
            self.offsets.append(end)
            end += parameter.numel()
        starts = [*self.offsets, end]
        self.muon_end, self.matrices_end = starts[len(inner)] if inner else 0, starts[len(inner) + len(outer)]
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
        """The shape (R, C) of each map in a matrix. Maps may be stacked by rows; each is orthogonalised by itself."""
        return matrix.shape[0] // MAPS_PER_MATRIX.get(name.split(".")[-2], 1), matrix.shape[1]

    def views(self, vector: Tensor) -> list[Tensor]:
        """The part of a vector (P,) for each parameter, in the shape of that parameter."""
        return [vector[at : at + p.numel()].view(p.shape) for at, p in zip(self.offsets, self.list, strict=True)]

    def stacks(self, vector: Tensor) -> list[Tensor]:
        """Muon's part of a vector as views: one (N, R, C) for each shape."""
        parts = vector[: self.muon_end].split([size for _, size in self.stacked])
        return [part.view(-1, *shape) for (shape, _), part in zip(self.stacked, parts, strict=True)]


class Rates(NamedTuple):
    """What the schedule sets for each update. A step reads these from a tensor: a CUDA graph would keep a Python
    number as it was at capture."""

    lr: float  # AdamW's
    beta1: float
    beta2: float
    muon_lr: float
    momentum: float


def rates(config: TrainConfig, position: float, total: int) -> Rates:
    """The rates at update `position` (0 is the first) of `total`."""
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
    enabled: Tensor,
    decayed: Tensor,
    weight_decay: float,
) -> None:
    """One AdamW update of weights (P,) and of their moments `mean` and `square` (P,). Only `decayed` has weight decay.

    The rates are tensors (). So is `updates`, the number of updates including this one. `enabled` () is 1, or 0 to
    change nothing. torch.optim.AdamW computes the same, but a CUDA graph cannot change its betas.
    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", 2019.
    """
    lr = rates.lr * enabled
    if weight_decay:
        decayed.mul_(1 - lr * weight_decay)
    mean.lerp_(gradient, (1 - rates.beta1) * enabled)
    square.lerp_(gradient * gradient, (1 - rates.beta2) * enabled)
    deviation = (square / (1 - rates.beta2**updates)).sqrt_().add_(EPS)
    weights.sub_((mean / deviation).mul_(lr / (1 - rates.beta1**updates)))


def schedule(config: TrainConfig, position: float, total: int) -> float:
    """The learning rate as a share of its peak, at update `position` (0 is the first) of `total`.

    onecycle is torch's OneCycleLR with anneal_strategy="linear".
    """
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "onecycle":
        first = 1 / config.div_factor
        return onecycle(config, position, total, first, 1.0, first / config.final_div_factor)
    # The rate is never exactly zero, so that the first and the last update change the weights too.
    progress = min(position / total, 1 - 1 / total)
    rise = (position + 1) / total / config.warmup if config.warmup else 1.0
    fall = (1 - progress) / config.cooldown if config.cooldown else 1.0
    return min(1.0, rise, fall)


def beta1(config: TrainConfig, position: float, total: int) -> float:
    """AdamW's first beta. OneCycleLR lowers it while the rate rises and raises it after, between torch's defaults."""
    if config.schedule != "onecycle":
        return config.beta1
    low, high = 0.85, 0.95
    return onecycle(config, position, total, high, low, high)


def onecycle(config: TrainConfig, position: float, total: int, first: float, peak: float, last: float) -> float:
    """Linear from `first` to `peak`, reached at pct_start * total - 1, and from there to `last` at total - 1."""
    turn = max(config.pct_start * total - 1, 0.0)
    if position < turn:
        return first + (peak - first) * position / turn
    return peak + (last - peak) * min((position - turn) / max(total - 1 - turn, 1.0), 1.0)
