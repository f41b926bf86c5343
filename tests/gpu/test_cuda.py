"""Tests that need CUDA: a graph does the same as the compiled and the eager step, and its memory does not grow.

On a machine with a GPU, run these first: python -m pytest -q -x tests/gpu
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import model
from model.network import build
from tests.stories import write_stories
from train import loop
from train.batches import Batches
from train.interrupts import Interrupted
from train.loop import train
from train.optim import Rates
from train.presets import PRESETS, TrainConfig
from train.speed import launches
from train.step import TALLY, WARM_UP_STEPS, Step, StepQueue

if not torch.cuda.is_available():
    pytest.skip("no CUDA here", allow_module_level=True)

# Seven words in random order, so that there is something to learn.
WORDS = [np.random.default_rng(n).integers(0, 96, 6, dtype=np.uint8) for n in range(7)]
TEXT = np.concatenate([WORDS[n] for n in np.random.default_rng(0).integers(0, 7, 9_000)])
STEPS = 60
POCKET = replace(
    PRESETS["pocket"],
    model=replace(PRESETS["pocket"].model, context=64, layers=2),
    batch_size=16,
    window=None,
    compile=False,
    ema=0.99,
    precision="fp32",
)


@pytest.fixture
def cuda() -> torch.device:
    """The GPU, with exact float32 products instead of TF32."""
    torch.set_float32_matmul_precision("highest")
    return torch.device("cuda", torch.cuda.current_device())


def rates(number: int) -> Rates:
    """Rates that all change from step to step."""
    share = 1 - number / STEPS
    return Rates(
        lr=0.004 * share,
        beta1=0.95 - 0.1 * share,
        beta2=0.99 - 0.05 * share,
        muon_lr=0.02 * share,
        momentum=0.9 - 0.3 * share,
    )


def made(config: TrainConfig, cuda: torch.device) -> tuple[Step, Batches]:
    torch.manual_seed(0)
    step = Step(build(config.model).to(cuda), config, cuda)
    batches = Batches(TEXT, context=config.model.context, batch_size=config.batch_size, seed=1, device=cuda)
    if config.compile:
        assert step.objective.compile([batches], step.parameters.list) is None
    return step, batches


def losses(config: TrainConfig, cuda: torch.device) -> tuple[Step, Tensor]:
    """Runs STEPS steps. Returns the step and the loss of each."""
    step, batches = made(config, cuda)
    queue, found = StepQueue(step), []
    for number in range(STEPS):
        queue.wait()
        queue.enqueue(batches, rates(number))
        found.append(step.loss.clone())
    return step, torch.stack(found).cpu()


@pytest.mark.parametrize(
    ("changes", "loss", "weights"),
    [
        ({}, 2e-3, 2e-2),  # Muon's bf16 amplifies rounding errors
        ({"optimiser": "adamw", "clip": 1.0}, 1e-4, 1e-3),
        ({"optimiser": "adamw", "accumulate": 2}, 1e-4, 1e-3),
    ],
    ids=str,
)
def test_a_graph_does_what_the_eager_step_does(changes: dict, loss: float, weights: float, cuda: torch.device) -> None:
    """If a graph kept a Python number, it would use the wrong rate or repeat the same batch."""
    config = replace(POCKET, **changes)
    captured, ours = losses(config, cuda)
    eager, theirs = losses(replace(config, graph=False), cuda)
    assert len(captured.graphs) == 1 and not eager.graphs
    assert len(ours.unique()) == STEPS
    torch.testing.assert_close(ours, theirs, rtol=0, atol=loss)
    torch.testing.assert_close(captured.weights, eager.weights, rtol=0, atol=weights)
    assert int(captured.number) == int(eager.number) == STEPS


def test_a_compiled_graph_does_what_the_eager_step_does(cuda: torch.device) -> None:
    captured, ours = losses(replace(POCKET, compile=True), cuda)
    _, theirs = losses(replace(POCKET, graph=False), cuda)
    assert len(captured.graphs) == 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_float32_does(precision: str, cuda: torch.device) -> None:
    _, ours = losses(replace(POCKET, precision=precision), cuda)
    _, theirs = losses(POCKET, cuda)
    assert ours.isfinite().all() and ours[-20:].mean() < ours[0] - 1
    assert float((ours - theirs)[-20:].mean().abs()) < 0.05


def test_an_overflow_in_fp16_is_left_out_by_the_graph(cuda: torch.device) -> None:
    step, batches = made(replace(POCKET, precision="fp16", ema=0.0), cuda)
    queue, scale = StepQueue(step), step.tally[TALLY.index("scale")]
    for number in range(WARM_UP_STEPS + 2):
        queue.wait()
        queue.enqueue(batches, rates(number))
    assert step.graphs
    before = {name: tensor.clone() for name, tensor in step.tensors().items()}
    scale.fill_(2.0**120)
    queue.wait()
    queue.enqueue(batches, rates(0))
    assert queue.synchronise()["updates"] == before["tally"][TALLY.index("updates")]
    assert queue.latest["scale"] == 2.0**119 and queue.latest["missed_in_row"] == 1
    for name in ("weights", "mean", "square", "momentum"):
        assert torch.equal(getattr(step, name), before[name])
    scale.fill_(2.0**10)
    queue.wait()
    queue.enqueue(batches, rates(0))
    assert queue.synchronise()["missed_in_row"] == 0 and not torch.equal(step.weights, before["weights"])


def test_what_cannot_be_captured_runs_without_a_graph(
    cuda: torch.device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step reads a number back. It has dropout, whose random numbers differ in a captured step."""
    config = replace(POCKET, model=replace(POCKET.model, dropout=0.1))
    captured, ours = losses(config, cuda)
    assert captured.graphs and ours.isfinite().all() and ours[-20:].mean() < ours[0] - 1
    original = Step.advance
    monkeypatch.setattr(Step, "advance", lambda self, batches: (self.loss.item(), original(self, batches)))
    step, theirs = losses(config, cuda)
    assert not step.graphs and capsys.readouterr().err.startswith("no CUDA graph (")
    assert int(step.number) == STEPS
    assert float((ours - theirs)[-20:].mean().abs()) < 0.1


def test_each_step_gets_its_own_rates_although_the_host_is_ahead(cuda: torch.device) -> None:
    """The host may be up to eight steps ahead of the GPU."""
    step, batches = made(POCKET, cuda)
    queue, seen = StepQueue(step), torch.zeros(40, len(Rates._fields), device=cuda)
    for number in range(40):
        queue.wait()
        torch.cuda._sleep(2_000_000)  # about a millisecond, in which the host enqueues more steps
        queue.enqueue(batches, rates(number))
        seen[number] = step.rates
    torch.testing.assert_close(seen.cpu(), torch.tensor([rates(number) for number in range(40)]))


def test_a_step_needs_few_launches(cuda: torch.device) -> None:
    step, batches = made(replace(POCKET, ema=0.0), cuda)
    queue = StepQueue(step)

    def steps() -> None:
        for number in range(20):
            queue.wait()
            queue.enqueue(batches, rates(number))

    steps()
    assert 0 < launches(cuda, steps) <= 5 * 20


def test_memory_does_not_grow(cuda: torch.device) -> None:
    step, batches = made(POCKET, cuda)
    short, queue = batches.shortened(32), StepQueue(step)
    used = []
    for number in range(300):
        queue.wait()
        queue.enqueue(short if number < 100 else batches, rates(number % STEPS))
        if number % 50 == 49:
            queue.synchronise()
            used.append(torch.cuda.memory_allocated())
    assert used[-1] == used[-2] == used[-3]
    assert used[-1] < 2**30


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., bool]:
    text = write_stories(tmp_path / "stories.txt", 300)
    config = replace(POCKET, data=str(text), device="cuda", steps=80, max_minutes=None, eval_every=20)
    return lambda name, **rest: train(config, tmp_path / name, cache=tmp_path / "cache", **rest)


def test_resumed_equals_uninterrupted(
    run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to differences from kernels that add in varying order."""
    assert run("whole")
    original, seen = loop.take_step, iter(range(1, 10**6))

    def take_step(*arguments: object) -> None:
        original(*arguments)
        if next(seen) == 50:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "take_step", take_step)
        run("parts")
    assert run("parts", resume=True)
    whole, parts = (model.load(tmp_path / name).log for name in ("whole", "parts"))
    assert [line["step"] for line in whole] == [line["step"] for line in parts] == [0, 20, 40, 60, 80]
    for one, other in zip(whole, parts, strict=True):
        assert one["lr"] == other["lr"]
        assert one["val"] == pytest.approx(other["val"], abs=0.01)
        assert one["train"] == pytest.approx(other["train"], abs=0.01)
