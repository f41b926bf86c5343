"""Parameter groups, Muon and AdamW, and the schedules of their learning rate."""

from __future__ import annotations

import torch
from torch import nn

from train.muon import Muon
from train.presets import TrainConfig

PARTS = {"qkv": 3, "gate_up": 2}  # maps that share a matrix because one product is faster than several


def optimisers(network: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of a network; every parameter is in one group of one of them.

    AdamW takes all of them, or, under "muon", what is no matrix inside a block: Muon orthogonalises updates, which
    suits maps from activations to activations, and not the embedding, the head or a norm. Only matrices decay.
    """
    named = list(network.named_parameters())
    matrices = {name: p for name, p in named if p.ndim == 2 and name.startswith("blocks.")}
    inner = list(matrices.values())
    outer = [p for name, p in named if p.ndim == 2 and not name.startswith("blocks.")]
    vectors = [p for _, p in named if p.ndim < 2]
    by_muon = config.optimiser == "muon"
    adamw = torch.optim.AdamW(
        [
            {"params": outer if by_muon else inner + outer, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
    if not by_muon:
        return [adamw]
    parts = [PARTS.get(name.split(".")[-2], 1) for name in matrices]
    settings = {"lr": config.muon_lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
    return [adamw, Muon(inner, parts=parts, **settings)]


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
