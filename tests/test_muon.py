"""Muon: torch's arithmetic, all matrices of a shape at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from train.muon import Muon, orthogonalise

SHAPES = [(96, 32), (32, 32), (32, 64), (32, 32), (96, 32)]
SETTINGS = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def descend(optimiser: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimiser.step()
    return [weight.detach() for weight in weights]


def test_it_moves_the_weights_as_torch_does_one_by_one() -> None:
    ours, theirs = parameters(), parameters()
    moved, expected = descend(Muon(ours, **SETTINGS), ours), descend(torch.optim.Muon(theirs, **SETTINGS), theirs)
    for weight, other in zip(moved, expected, strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-3)  # bf16, in products of another order


def test_maps_that_share_a_parameter_move_as_if_they_had_their_own() -> None:
    (stacked,) = [nn.Parameter(torch.randn(96, 32, generator=torch.Generator().manual_seed(3)))]
    alone = [nn.Parameter(part.clone()) for part in stacked.detach().chunk(3)]
    gradient = torch.randn(96, 32, generator=torch.Generator().manual_seed(4))
    stacked.grad = gradient
    for part, its_gradient in zip(alone, gradient.chunk(3), strict=True):
        part.grad = its_gradient
    Muon([stacked], **SETTINGS, parts=[3]).step()
    Muon(alone, **SETTINGS).step()
    torch.testing.assert_close(stacked.detach(), torch.cat([part.detach() for part in alone]))


@pytest.mark.parametrize("shape", [(2, 64, 32), (3, 32, 32), (1, 32, 96)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 1e-3
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    # the smallest of a square matrix may start too near zero to come all the way
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_a_zero_gradient_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(32, 32))
    weight.grad = torch.zeros(32, 32)
    Muon([weight], lr=0.02).step()
    assert torch.equal(weight.detach(), torch.ones(32, 32))


@pytest.mark.parametrize(("shape", "parts"), [((33, 32), 2), ((32,), 1)])
def test_what_is_no_stack_of_matrices_is_refused(shape: tuple[int, ...], parts: int) -> None:
    with pytest.raises(ValueError, match=rf"parameter is no stack of {parts} matrices$"):
        Muon([nn.Parameter(torch.zeros(shape))], lr=0.02, parts=[parts])
