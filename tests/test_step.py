"""A step: it never waits, keeps no constant, skips an update completely, and runs even if it cannot be captured."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.network import build
from train.batches import Batches
from train.optim import Rates
from train.presets import PRESETS, TrainConfig
from train.step import TALLY, WARM_UP_STEPS, Step, StepQueue

CPU = torch.device("cpu")
TEXT = np.random.default_rng(0).integers(0, 97, 5_000, dtype=np.uint8)
CONFIG = replace(
    PRESETS["debug"],
    model=replace(PRESETS["debug"].model, context=16, dropout=0.1),
    batch_size=4,
    ema=0.9,
    weight_decay=0.1,
)
KINDS: dict[str, dict] = {
    "muon": {},
    "adamw": {"optimiser": "adamw"},
    "accumulated and clipped": {"accumulate": 2, "clip": 1.0},
    "fp16": {"precision": "fp16", "clip": 1.0},
    "opening, with marks": {"opening": 0.5},
}


def rates(number: int) -> Rates:
    """Rates that all differ at each step."""
    return Rates(
        lr=0.001 * number, beta1=0.9 - 0.01 * number, beta2=0.99 - 0.001 * number, muon_lr=0.002 * number, momentum=0.8
    )


def made(kind: str, patch: pytest.MonkeyPatch, config: TrainConfig = CONFIG) -> tuple[Step, Batches]:
    """A step on the CPU. There it treats fp16 as on CUDA."""
    config = replace(config, **KINDS[kind])
    patch.setattr("train.step.precision_of", lambda config, device: config.precision)
    torch.manual_seed(0)
    texts = {"story_start": 96, "opening": config.opening, "mark": 96 if config.opening else None}
    batches = Batches(TEXT, context=16, batch_size=4, seed=1, **texts)
    return Step(build(config.model), config, CPU), batches


class Recorded(TorchDispatchMode):
    """Records every operation that reaches the device, with its arguments that are not tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        plain = torch.utils._pytree.tree_map(lambda x: "tensor" if isinstance(x, Tensor) else x, (args, kwargs))
        self.seen.append((str(function), repr(plain)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_differ_only_in_tensors(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph repeats the same operations with the same Python numbers, so these must be the same at each step.
    Also, no number is read back from the device, and none is copied to it outside the network, as by
    torch.where(x, y, 0.0)."""
    step, batches = made(kind, monkeypatch)
    steps = []
    for number in (1, 2, 3):
        step.rates.copy_(torch.tensor(rates(number)))
        with Recorded() as recorded:
            step.advance(batches)
        steps.append(recorded.seen)
    assert steps[1] == steps[2]
    assert len(steps[2]) > 100
    assert not [name for name, _ in steps[2] if "_local_scalar_dense" in name]
    with Recorded() as network:
        step.objective(*batches.batch(0))
    copied, by_network = (sum("scalar_tensor" in name for name, _ in seen) for seen in (steps[2], network.seen))
    assert copied == by_network * step.config.accumulate
    assert int(step.number) == 3 and step.tally[TALLY.index("updates")] == 3


def state(step: Step) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in step.tensors().items()}


def tally(step: Step) -> dict[str, float]:
    return dict(zip(TALLY, step.tally.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["muon", "adamw", "fp16"])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(kind: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One such number is enough, for either optimiser. The next step is an update again."""
    step, batches = made(kind, monkeypatch)
    queue, original = StepQueue(step), Step.differentiate
    queue.enqueue(batches, rates(1))
    for place in (0, step.parameters.muon_end, len(step.weights) - 1):
        before = state(step)

        def differentiate(self: Step, *arguments: object, place: int = place) -> None:
            original(self, *arguments)
            self.gradient[place] = bad

        with monkeypatch.context() as patch:
            patch.setattr(Step, "differentiate", differentiate)
            queue.enqueue(batches, rates(2))
        after = state(step)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == {"number", "tally"} | ({"average"} if "average" in moved else set())
        assert (after["tally"] - before["tally"])[TALLY.index("updates")] == 0
    seen = tally(step)
    assert seen["missed"] == seen["missed_in_row"] == 3 and seen["updates"] == seen["counted"] == 1
    assert seen["scale"] == 2.0**16 / (8 if kind == "fp16" else 1)
    queue.enqueue(batches, rates(3))
    assert tally(step)["missed_in_row"] == 0 and tally(step)["updates"] == 2
    assert not torch.equal(step.weights, after["weights"])


def test_a_scale_that_overflows_is_halved_until_it_fits_and_grows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.step.SCALE", 2.0**40)  # far beyond fp16
    monkeypatch.setattr("train.step.GROWS_AFTER", 4)
    step, batches = made("fp16", monkeypatch)
    queue, seen = StepQueue(step), []
    for _ in range(60):
        queue.enqueue(batches, rates(1))
        seen.append(tally(step))
    updates = [line["updates"] for line in seen]
    assert 10 < updates.index(1) < 40 and updates[-1] > 10
    scales = [line["scale"] for line in seen]
    assert scales[0] == 2.0**39 and scales[updates.index(1)] == 2.0 ** (40 - updates.index(1))
    assert any(b == 2 * a for a, b in pairwise(scales))
    assert step.weights.isfinite().all()


def test_fp16_moves_weights_as_fp32_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is divided by the loss scale before it is clipped."""
    ends = []
    for changes in ({"precision": "fp16"}, {"precision": "fp32"}):
        config = replace(CONFIG, optimiser="adamw", clip=0.5, model=replace(CONFIG.model, dropout=0.0), **changes)
        monkeypatch.setitem(KINDS, "this", {})
        step, batches = made("this", monkeypatch, config)
        start, queue = step.weights.clone(), StepQueue(step)
        for _ in range(3):
            queue.enqueue(batches, Rates(lr=0.001, beta1=0.9, beta2=0.95, muon_lr=0.0, momentum=0.0))
        ends.append(step.weights - start)
    moved = ends[0].norm()
    assert (ends[0] - ends[1]).norm() < 0.1 * moved > 0


def test_accumulated_batches_equal_one_larger_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for accumulate, batch_size in ((1, 8), (4, 2)):
        monkeypatch.setitem(KINDS, "this", {"accumulate": accumulate, "batch_size": batch_size})
        step, _ = made("this", monkeypatch, replace(CONFIG, model=replace(CONFIG.model, dropout=0.0)))
        step.advance(Batches(TEXT, context=16, batch_size=batch_size, seed=1))
        gradients.append(step.reduced)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_captured_runs_without_a_graph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The CPU has no CUDA graphs, so the capture fails."""
    ends = []
    for captures in (True, False):
        step, batches = made("muon", monkeypatch)
        step.captures = captures
        queue = StepQueue(step)
        for number in range(WARM_UP_STEPS + 3):
            queue.enqueue(batches, rates(number))
        ends.append(state(step))
        error = capsys.readouterr().err
        assert error.startswith("no CUDA graph (") == captures and error.count("\n") == captures
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert int(ends[0]["number"]) == WARM_UP_STEPS + 3


def test_a_graph_is_captured_once_for_each_window_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for a CUDA graph, which repeats the captured step at each replay."""
    captured: list[int] = []

    class Graph:
        def replay(self) -> None:
            captured_step.advance(self.batches)

    def capture(self: Step, batches: Batches) -> None:
        captured.append(batches.context)
        graph = Graph()
        graph.batches = batches
        self.graphs[batches.context] = graph
        graph.replay()

    monkeypatch.setattr(Step, "capture", capture)
    captured_step, batches = made("muon", monkeypatch)
    captured_step.captures = True
    short, queue = batches.shortened(8), StepQueue(captured_step)
    for source in [short] * 6 + [batches] * 6 + [short] * 2:
        queue.enqueue(source, rates(1))
    assert captured == [8, 16]
    assert int(captured_step.number) == 14
