"""Muon: the same result as torch's, for all matrices of a shape at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from train.muon import muon, orthogonalise

SHAPES = [(96, 32), (32, 32), (32, 64), (32, 32), (64, 32)]


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_it_changes_the_weights_as_torch_does_one_by_one() -> None:
    """The caller computes Nesterov momentum. Transposed shapes share their products."""
    ours = [noise((2, *shape), 1) for shape in SHAPES]
    theirs = [nn.Parameter(matrix.clone()) for stack in ours for matrix in stack]
    updates = [noise(stack.shape, 2) for stack in ours]
    for parameter, update in zip(theirs, (matrix for stack in updates for matrix in stack), strict=True):
        parameter.grad = update.clone()
    torch.optim.Muon(theirs, lr=0.02, momentum=0.0, weight_decay=0.0).step()
    muon(ours, updates, torch.tensor(0.02), torch.bfloat16)
    for matrix, other in zip((matrix for stack in ours for matrix in stack), theirs, strict=True):
        torch.testing.assert_close(matrix, other.detach(), rtol=0, atol=1e-3)  # bf16 products in a different order


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 32, 64), (3, 32, 32), (1, 32, 96)])
def test_singular_values_come_near_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.linalg.svdvals(orthogonalise(noise(shape, 5) * 1e-3, dtype).float())
    # the smallest values of a square matrix may start too close to zero to reach 0.6
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_a_zero_update_changes_nothing() -> None:
    weights = torch.ones(1, 32, 32)
    muon([weights], [torch.zeros(1, 32, 32)], torch.tensor(0.02), torch.bfloat16)
    assert torch.equal(weights, torch.ones(1, 32, 32))
