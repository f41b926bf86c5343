"""Muon: orthogonalises the momentum matrices, all those of one shape together.

Shapes: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5  # a quintic, steep at zero, so that five iterations suffice
EPS = 1e-7


def muon(weights: Sequence[Tensor], updates: Sequence[Tensor], lr: Tensor, dtype: torch.dtype) -> None:
    """Moves each stack of matrices (N, R, C) against the (semi-)orthogonal matrices nearest to its updates (N, R, C).

    `lr` scales the step. Stacks of shapes (R, C) and (C, R) share their matrix products. `dtype` is the type
    of the products: bfloat16, or float16 on a GPU without bfloat16.
    Source: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, update in enumerate(updates):
        alike.setdefault(tuple(sorted(update.shape[1:])), []).append(number)
    for numbers in alike.values():
        wide = [updates[n].mT if tall(updates[n]) else updates[n] for n in numbers]
        directions = orthogonalise(torch.cat(wide), dtype).to(weights[0].dtype)
        for n, direction in zip(numbers, directions.split([len(each) for each in wide]), strict=True):
            R, C = updates[n].shape[1:]
            # a taller map gets a larger step, so that its outputs change as much as those of others
            step = lr * max(1.0, R / C) ** 0.5
            weights[n].sub_((direction.mT if tall(updates[n]) else direction) * step)


def tall(matrices: Tensor) -> bool:
    return matrices.shape[1] > matrices.shape[2]


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Newton-Schulz iteration: brings all singular values of matrices (N, R, C), R <= C, near 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    x = matrices if dtype == torch.float16 else matrices.to(dtype)  # float16 would round small gradients to zero
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
