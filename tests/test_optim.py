"""The vector of parameters, AdamW, and the schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.network import build
from train.optim import Parameters, Rates, adamw, beta1, schedule
from train.presets import PRESETS

ONECYCLE = PRESETS["classic-onecycle"]
LOGGED = {  # the log of the original: the rate before each step
    1000: 0.00340110,
    2000: 0.00670220,
    3000: 0.00999857,
    4000: 0.00857014,
    5000: 0.00714171,
    6000: 0.00571329,
    7000: 0.00428486,
    8000: 0.00285643,
    9000: 0.00142943,
    9999: 0.00000243,
}


@pytest.mark.parametrize("skipped", [8001, 8500, 8999])
def test_onecycle_is_the_original_log_with_its_one_skipped_update(skipped: int) -> None:
    """The original's scaler skipped one step between 8000 and 9000, and its schedule did not advance at that step."""
    updates = 0
    for step in range(10_000):
        if step in LOGGED:
            assert schedule(ONECYCLE, updates, 10_000) * ONECYCLE.lr == pytest.approx(LOGGED[step], abs=5.1e-9)
        updates += step != skipped


def test_onecycle_is_that_of_torch_for_rate_and_momentum() -> None:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-2, 500, pct_start=0.3, anneal_strategy="linear", div_factor=100, final_div_factor=100
    )
    for step in range(500):
        assert schedule(ONECYCLE, step, 500) * 1e-2 == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        assert beta1(ONECYCLE, step, 500) == pytest.approx(optimiser.param_groups[0]["betas"][0], rel=1e-9)
        optimiser.step()
        if step < 499:
            theirs.step()


def test_warm_up_stable_decay() -> None:
    config = replace(PRESETS["pocket"], steps=100, max_minutes=None, warmup=0.1, cooldown=0.5)
    rates = [schedule(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (n + 1) for n in range(10)])
    assert rates[10:50] == [1.0] * 40
    assert rates[50:] == pytest.approx([1 - n / 50 for n in range(50)])
    assert rates[-1] > 0


def test_constant_is_constant() -> None:
    assert {schedule(PRESETS["classic"], step, 5_000) for step in range(5_000)} == {1.0}


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("preset", ["classic", "pocket"])
def test_every_parameter_is_a_view_of_one_vector_and_keeps_its_weights(muon: bool, preset: str) -> None:
    torch.manual_seed(0)
    network = build(PRESETS[preset].model)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    vector = Parameters(network, muon=muon)
    covered = torch.zeros_like(vector.values)
    for parameter, view in zip(vector.list, vector.views(covered), strict=True):
        assert parameter.data_ptr() % 64 == vector.values.data_ptr() % 64  # aligned as compiled kernels need it
        view += 1
    assert covered.max() == 1 and covered.sum() == sum(p.numel() for p in network.parameters())
    assert (vector.values[covered == 0] == 0).all()
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    vector.values += 1
    assert all(torch.equal(p.detach(), before[name] + 1) for name, p in network.named_parameters())


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("preset", ["classic", "pocket"])
def test_muon_has_the_matrices_inside_the_blocks_and_only_matrices_decay(muon: bool, preset: str) -> None:
    network = build(PRESETS[preset].model)
    vector = Parameters(network, muon=muon)
    kinds = torch.full_like(vector.values, 2)  # 2: not a matrix, 1: a matrix for AdamW, 0: a matrix for Muon
    kinds[: vector.matrices_end] = 1
    kinds[: vector.muon_end] = 0
    named = {id(p): name for name, p in network.named_parameters()}
    for parameter, view in zip(vector.list, vector.views(kinds), strict=True):
        inner = muon and parameter.ndim == 2 and named[id(parameter)].startswith("blocks.")
        assert (view == (0 if inner else 1 if parameter.ndim == 2 else 2)).all()


def test_the_maps_of_a_shape_are_stacked() -> None:
    """q, k, v and the output projection, each 64 x 64, form one stack. gate and up are in another stack than down."""
    network = build(PRESETS["pocket"].model)
    vector = Parameters(network, muon=True)
    stacks = vector.stacks(vector.values)
    assert [tuple(stack.shape) for stack in stacks] == [(20, 64, 64), (5, 64, 128), (10, 128, 64)]
    first = network.blocks[0]
    maps = [*first.attention.qkv.weight.detach().chunk(3), first.attention.out.weight.detach()]
    assert all(any(torch.equal(each, other) for other in stacks[0]) for each in maps)
    assert any(torch.equal(first.mlp.gate_up.weight.detach()[128:], other) for other in stacks[2])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_that_of_torch_at_rates_that_move(decay: float) -> None:
    generator = torch.Generator().manual_seed(1)
    ours = torch.randn(96, generator=generator)
    theirs = torch.nn.Parameter(ours.clone())
    optimiser = torch.optim.AdamW([theirs], weight_decay=decay)
    mean, square = torch.zeros(2, 96)
    for update in range(1, 30):
        gradient = torch.randn(96, generator=generator)
        rates = Rates(lr=0.01 * update, beta1=0.95 - 0.003 * update, beta2=0.99, muon_lr=0.0, momentum=0.0)
        optimiser.param_groups[0] |= {"lr": rates.lr, "betas": (rates.beta1, rates.beta2)}
        theirs.grad = gradient.clone()
        optimiser.step()
        for enabled, times in ((1.0, update), (0.0, update)):  # the second time nothing changes
            adamw(
                ours,
                gradient,
                mean,
                square,
                rates=Rates(*torch.tensor(rates).unbind()),
                updates=torch.tensor(float(times)),
                enabled=torch.tensor(enabled),
                decayed=ours,
                weight_decay=decay,
            )
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("share", "steps"), [(0.1, 10), (1.0, 1), (1.0, 10), (0.0, 10)])
def test_onecycle_accepts_extreme_settings(share: float, steps: int) -> None:
    config = replace(ONECYCLE, pct_start=share, steps=steps)
    rates = [schedule(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
