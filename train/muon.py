"""Muon: momentum whose matrices are orthogonalised, those of one shape together.

Shapes: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic: steep at zero, so that five iterations do
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum, each update replaced by the nearest (semi-)orthogonal matrix.

    The arithmetic is that of torch.optim.Muon, which takes the matrices one by one: 15 small products each, hundreds of
    launches a step. Here all parts of one shape share a batched product. A parameter may hold several maps one above
    the other, as q, k and v are: `parts` tells how many, and each is orthogonalised on its own.
    Source: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        parts: Sequence[int] | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        (group,) = self.param_groups
        self.parts = list(parts) if parts is not None else [1] * len(group["params"])
        for parameter, parts_of_it in zip(group["params"], self.parts, strict=True):
            if parameter.ndim != 2 or parameter.shape[0] % parts_of_it:
                raise ValueError(f"a {tuple(parameter.shape)} parameter is no stack of {parts_of_it} matrices")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        (group,) = self.param_groups
        parameters = [p for p in group["params"] if p.grad is not None]
        grads = [p.grad for p in parameters]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, buffers, group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])

        parts_of = dict(zip(map(id, group["params"]), self.parts, strict=True))
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)  # (weights, update) by their shape
        for p, update in zip(parameters, updates, strict=True):
            for pair in zip(p.chunk(parts_of[id(p)]), update.chunk(parts_of[id(p)]), strict=True):
                alike[pair[0].shape].append(pair)
        for (rows, columns), pairs in alike.items():
            weights, stacked = [w for w, _ in pairs], torch.stack([u for _, u in pairs])  # (N, R, C)
            directions = orthogonalise(stacked).to(weights[0].dtype)
            # taller maps move further, so that what they put out changes alike
            torch._foreach_add_(weights, list(directions), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Newton-Schulz iteration in bf16: (N, R, C) -> the same with all singular values near 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
