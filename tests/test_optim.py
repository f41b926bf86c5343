"""Schedules and parameter groups."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.network import build
from train.optim import beta1, optimisers, schedule
from train.presets import PRESETS

ONECYCLE = PRESETS["classic-onecycle"]
LOGGED = {  # what the original logged, the rate before the step
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
    """The original's scaler skipped one step between 8000 and 9000, and the schedule waited with it."""
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


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["classic", "pocket"])
def test_every_parameter_has_one_optimiser_and_only_matrices_decay(optimiser: str, preset: str) -> None:
    config = replace(PRESETS[preset], optimiser=optimiser, weight_decay=0.1)
    network = build(config.model)
    groups = [group for each in optimisers(network, config) for group in each.param_groups]
    members = [p for group in groups for p in group["params"]]
    assert len(members) == len({id(p) for p in members}) == len(list(network.parameters()))
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim == 2 else 0.0)


def test_muon_has_the_matrices_inside_the_blocks_and_nothing_else() -> None:
    network = build(PRESETS["pocket"].model)
    muon = optimisers(network, PRESETS["pocket"])[1]
    expected = {id(p) for name, p in network.named_parameters() if p.ndim == 2 and "embedding" not in name}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == expected


@pytest.mark.parametrize(("share", "steps"), [(0.1, 10), (1.0, 1), (1.0, 10), (0.0, 10)])
def test_onecycle_survives_its_edges(share: float, steps: int) -> None:
    config = replace(ONECYCLE, pct_start=share, steps=steps)
    rates = [schedule(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
