"""python -m train.speed: it times real steps and counts correctly."""

from __future__ import annotations

import json

import pytest
import torch

from model.config import ModelConfig
from model.network import build
from train.presets import PRESETS
from train.speed import flops_per_character, main


def test_it_times_the_step_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "debug", "--steps", "10", "--device", "cpu", "--profile"]) == 0
    line, table = capsys.readouterr().out.split("\n", 1)
    figures = json.loads(line)
    shape, batch = PRESETS["debug"].model, PRESETS["debug"].batch_size
    by_step = 1e3 * batch * shape.context / figures["milliseconds_per_step"]
    assert figures["characters_per_second"] == pytest.approx(by_step, rel=0.02)
    assert 0 < figures["share"] < 1
    assert "aten::mm" in table


def test_operations_equal_those_that_torch_counts() -> None:
    """Except attention, which torch does not count on the CPU."""
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(vocab_size=97, context=64, layers=2, heads=2, width=64, hidden=128, loops=2)
    network = build(config)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 64, dtype=torch.int64)).sum().backward()
    attention = 6 * 4 * 64 * 64  # 6 x depth x width x context
    assert flops_per_character(config) - attention == counter.get_total_flops() / 64


def test_a_setting_that_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--preset", "pocket", "--heads", "3"])
    assert "width (64) must be a multiple of heads (3)" in capsys.readouterr().err
