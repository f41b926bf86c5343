"""The training loop with real components: it learns, stops, resumes exactly, and keeps artifacts complete."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count, pairwise
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch._dynamo.exc import TorchDynamoException

import model
from model import artifacts
from model.artifacts import ArtifactError
from model.network import build
from model.vocab import END
from tests.stories import write_stories
from train import checkpoint, loop
from train.__main__ import main
from train.checkpoint import CheckpointError
from train.distributed import ALONE
from train.evaluate import evaluation, score
from train.finish import finish, held_out
from train.interrupts import Interrupted
from train.loop import checkpoint_path, train
from train.objective import Objective
from train.optim import schedule
from train.presets import PRESETS, TrainConfig
from train.run import Clock, Diverged, Run
from train.step import Step
from train.text import corpus
from train.text.corpus import CorpusError
from train.text.encoded import split_every_nth, stories_in

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    text = write_stories(tmp_path / "stories.txt", 80)
    return replace(
        PRESETS["debug"],
        model=replace(PRESETS["debug"].model, context=32, dropout=0.1),
        data=str(text),
        steps=12,
        batch_size=4,
        eval_every=5,
        ema=0.9,
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., bool]:
    return lambda config, name="out", **rest: train(config, tmp_path / name, cache=tmp_path / "cache", **rest)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Sends this process a SIGTERM during its step number `step`."""
    original, seen = loop.take_step, iter(range(1, 10**6))

    def take_step(*arguments: object) -> None:
        original(*arguments)
        if next(seen) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "take_step", take_step)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimiser": "adamw", "schedule": "onecycle", "accumulate": 2, "clip": 1.0},
        {"window": 8, "widen": 0.7},
        {"patience": 3, "apart": 8},
    ],
)
def test_resumed_equals_uninterrupted_and_runs_only_the_missing_steps(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    config = replace(config, **changes)
    assert run(config, "whole")
    stopped_at(monkeypatch, 7)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(config, "parts")
    assert not (tmp_path / "parts").exists()
    monkeypatch.undo()
    steps: list[int] = []
    original = loop.take_step
    monkeypatch.setattr(loop, "take_step", lambda run, queue: (steps.append(run.steps), original(run, queue)))
    torch.rand(3)  # a resumed run must not depend on the earlier random state of the process
    assert run(config, "parts", resume=True)
    assert steps == list(range(7, 12))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    untimed = [
        [(line["step"], line["train"], line["val"], line["lr"]) for line in model.load(tmp_path / name).log]
        for name in ("whole", "parts")
    ]
    assert untimed[0] == untimed[1]
    assert [line[0] for line in untimed[0]] == [0, 5, 10, 12]


def test_seeded_equals_seeded(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(replace(config, seed=seed), name)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["embedding.weight"], c["embedding.weight"])


def test_a_finished_run_resumes_to_nothing(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert run(config, resume=True)
    assert capsys.readouterr().err == f"{tmp_path / 'out'} is finished: nothing to do\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_finished_run_of_another_length_says_what_goes_on_from_there(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a command, which works."""
    out = tmp_path / "out"
    argv = ["--preset", "debug", "--context", "32", "--data", config.data, "--out", str(out)]
    assert main([*argv, "--steps", "6"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for length in (["--steps", "12"], ["--steps", "3", "--max-minutes", "0.5"]):
        capsys.readouterr()
        assert main([*argv, *length, "--resume"]) == 2
        go_on = ["--preset", "debug", "--data", config.data, "--init", str(out), *length, "--out", f"{out}-2"]
        assert capsys.readouterr().err == (
            f"error: {out} is finished: it ran 6 steps with --steps 6, and its schedule is over; to train it further, "
            f"start a run from it: {shlex.join(['.venv/bin/python', '-m', 'train', *go_on])}\n"
        )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*argv, "--steps", "6", "--resume"]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main(go_on) == 0
    assert model.load(tmp_path / "out-2").metrics["base"]["name"] == "out"
    shutil.rmtree(out)
    capsys.readouterr()
    assert main([*argv, "--steps", "12", "--resume"]) == 2
    assert capsys.readouterr().err.endswith("and its schedule is over; give --steps 6 to write it again\n")


def test_a_finished_run_whose_artifact_is_gone_writes_it_again(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    run(config)
    before = weights(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert run(config, resume=True)
    assert np.array_equal(weights(tmp_path / "out")["embedding.weight"], before["embedding.weight"])


def test_resume_without_a_checkpoint_starts_anew(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    assert run(config, resume=True)
    assert model.load(tmp_path / "out").metrics["steps"] == 12


def test_stop_after_leaves_a_checkpoint_and_no_artifact(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    assert not run(replace(config, steps=10**6), stop_after=0.01)
    assert checkpoint_path(tmp_path / "out").exists()
    assert not (tmp_path / "out").exists()


def test_a_budget_of_minutes_cools_down_within_it(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that advances by 0.1 s at each reading: two minutes, and the second one in a resumed run."""
    readings = count()
    clock = SimpleNamespace(monotonic=lambda: next(readings) / 10)
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr("train.run.time", clock)
    budget = replace(config, steps=None, max_minutes=2, eval_every=10**6)
    assert not run(budget, stop_after=1)
    assert run(budget, resume=True)
    storyteller = model.load(tmp_path / "out")
    assert 120 <= storyteller.metrics["seconds"] < 122
    assert storyteller.metrics["steps"] > 100
    assert 0 < storyteller.log[-1]["lr"] < 0.02 * config.lr


def test_evaluations_take_a_twentieth_of_a_budget_of_minutes(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that advances by 10 s for an evaluation and by 0.4 s for a step. `eval_every` is 1."""
    now = [0.0]

    def moved(seconds: float) -> float:
        now[0] += seconds
        return now[0]

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr("train.run.time", clock)
    monkeypatch.setattr("train.run.process_time", clock.monotonic)
    taken, scored = loop.take_step, loop.score
    monkeypatch.setattr(loop, "take_step", lambda *arguments: (taken(*arguments), moved(0.4)))
    monkeypatch.setattr(loop, "score", lambda *arguments, **rest: (moved(10), scored(*arguments, **rest))[1])
    assert run(replace(config, steps=None, max_minutes=20, eval_every=1, eval_stories=1))
    log = model.load(tmp_path / "out").log
    assert 0.04 < 10 * (len(log) - 1) / log[-1]["seconds"] < 0.06  # and one at the end
    assert log[0]["seconds"] == 0.0  # the clock starts with the first step
    assert log[1]["seconds"] >= 200


@pytest.mark.parametrize("paused", ["take_step", "score", "checkpoint.save"])
def test_a_pause_is_no_training_time(
    config: TrainConfig,
    run: Callable[..., bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    paused: str,
) -> None:
    """A laptop that is closed for an hour. On a clock that advances by 6 s for a step, by 4 s for an evaluation and by
    30 s for a checkpoint, all of which count."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr("train.run.time", clock)
    monkeypatch.setattr("train.run.process_time", clock.monotonic)
    for name, seconds in (("take_step", 6.0), ("score", 4.0), ("checkpoint.save", 30.0)):
        original, calls = attrgetter(name)(loop), count(1)

        def slow(*args: object, original=original, calls=calls, name=name, seconds=seconds, **rest: object) -> object:
            result = original(*args, **rest)
            now[0] += seconds + 3600 * (name == paused and next(calls) == 2)
            return result

        monkeypatch.setattr(f"train.loop.{name}", slow)
    assert run(replace(config, steps=None, max_minutes=10, checkpoint_minutes=2, eval_every=10, eval_stories=1))
    during = {"take_step": "a step", "score": "an evaluation", "checkpoint.save": "a checkpoint"}[paused]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("a pause")]
    assert said == [f"a pause of 3,600 s during {during} is not counted as training time"]
    log = model.load(tmp_path / "out").log
    assert 600 <= log[-1]["seconds"] < 640 and 70 < log[-1]["step"] <= 100
    rates = [line["lr"] for line in log]
    assert rates[1] == config.lr and rates[-1] < 0.1 * config.lr
    assert all(0 < a - b < 0.35 * config.lr for a, b in pairwise(rates[2:]))  # it falls step by step


def test_slow_work_is_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a kind, which sets things up, a machine that becomes busy, and windows that become longer."""
    now = [0.0]
    monkeypatch.setattr("train.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("train.run.process_time", lambda: now[0])
    clock, pauses = Clock(), []

    def work(kind: str, *times: float) -> None:
        for seconds in times:
            now[0] += seconds
            pauses.append(clock.end_of(kind)[1])

    work("an evaluation", 40.0)
    clock.start()
    work("a step", 20.0, *[0.01] * 100, 4.9, *[1.0, 2.0, 4.0] * 20, 9.0)
    work("an evaluation", 60.0, 300.0)
    assert not any(pauses) and clock.seconds == pytest.approx(now[0] - 40)
    usual = clock.usual["a step"]
    work("a step", 50.0, usual, 60.0, 60.0, 60.0)
    assert usual < 4 and pauses[-5:] == pytest.approx([50 - usual, 0, 60 - usual, 0, 0])  # then it is the pace
    assert clock.usual["a step"] == pytest.approx(60)


def test_the_first_of_its_kind_held_a_pause_if_it_computed_little(monkeypatch: pytest.MonkeyPatch) -> None:
    now, computed = [0.0], [0.0]
    monkeypatch.setattr("train.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("train.run.process_time", lambda: computed[0])
    clock = Clock()
    clock.start()
    pauses = []
    for kind, busy, idle in (("a step", 0.5, 50.0), ("a step", 0.5, 0.0), ("a checkpoint", 2.0, 6.0)):
        now[0] += busy + idle
        computed[0] += busy
        pauses.append(clock.end_of(kind)[1])
    assert pauses == [50.0, 0.0, 0.0] and clock.seconds == 0.5 + 0.5 + 8.0


def test_the_final_score_takes_as_many_stories_as_its_time_allows(config: TrainConfig) -> None:
    torch.manual_seed(0)
    network = build(config.model).eval()
    sequences = [torch.randint(0, 97, (9,)).tolist() for _ in range(250)]
    quick, whole = (evaluation(network, sequences, "held_out.txt", seconds=seconds) for seconds in (0.0, None))
    assert quick["stories"] == 100 and whole["stories"] == 250
    assert quick["nats_per_character"] == whole["first_100"]
    assert evaluation(network, sequences, "held_out.txt", seconds=60) | {"seconds": 0} == whole | {"seconds": 0}


def test_it_learns_and_writes_what_it_measured(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    run(replace(config, steps=60, eval_every=30, model=replace(config.model, dropout=0.0)), command="python -m train")
    storyteller = model.load(tmp_path / "out")
    metrics, log = storyteller.metrics, storyteller.log
    assert [line["step"] for line in log] == [0, 30, 60]
    assert log[0]["val"] == pytest.approx(math.log(97), abs=0.2)
    assert log[-1]["val"] < 3.0 and log[-1]["train"] < log[0]["train"]
    assert metrics["steps"] == 60 and metrics["characters_seen"] == 60 * 4 * 32
    assert metrics["parameters"] == sum(p.numel() for p in storyteller.network.parameters())
    assert metrics["bits_per_character"] == pytest.approx(metrics["nats_per_character"] / math.log(2), abs=1e-5)
    assert metrics["command"] == "python -m train"
    assert f"{metrics['nats_per_character']:.4f}" in storyteller.card


def test_the_recorded_figure_belongs_to_the_weights_in_the_file(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    """Scored here symbol by symbol, with the artifact as a user loads it."""
    held_out = write_stories(tmp_path / "held_out.txt", 5, seed=9)
    run(replace(config, valid=str(held_out)))
    storyteller = model.load(tmp_path / "out")
    vocab, network, half = storyteller.vocab, storyteller.network, storyteller.config.context // 2
    nats, symbols = 0.0, 0
    for story in held_out.read_text().split("\n<|endoftext|>\n")[:-1]:
        ids = [vocab.end, *vocab.encode(story), vocab.end]
        for t in range(1, len(ids)):
            # the first window that contains t scores it; windows start every half context
            start = max(0, -(-(t - 2 * half) // half)) * half
            logits = network(torch.tensor([ids[start:t]]))[0, -1]
            nats -= float(logits.log_softmax(-1)[ids[t]])
            symbols += 1
    assert storyteller.metrics["evaluation"]["symbols"] == symbols
    assert storyteller.metrics["nats_per_character"] == pytest.approx(nats / symbols, abs=2e-5)


def test_classic_validates_by_the_original_rule_and_by_stories(run: Callable[..., bool], tmp_path: Path) -> None:
    text = write_stories(tmp_path / "stories.txt", 60)
    held_out = write_stories(tmp_path / "held_out.txt", 4, seed=9)
    config = replace(PRESETS["classic"], data=str(text), valid=str(held_out), steps=6, eval_every=3, eval_windows=2)
    run(config)
    storyteller = model.load(tmp_path / "out")
    assert storyteller.vocab.end is None and "\n" not in storyteller.vocab.stoi
    assert storyteller.metrics["evaluation"]["stories"] == 4
    assert storyteller.metrics["evaluation"]["data"] == "held_out.txt"
    assert storyteller.metrics["val_loss"] != storyteller.metrics["nats_per_character"]
    assert {line["lr"] for line in storyteller.log} == {0.001}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "was made with seed 1, this run has 5: give --seed 1, or delete it to start again"),
        ({"lr": 0.1}, "was made with lr 0.005, this run has 0.1: give --lr 0.005, or delete it to start again"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, changes: dict, message: str
) -> None:
    run(replace(config, steps=10**6), stop_after=0.005)
    with pytest.raises(CheckpointError) as error:
        run(replace(config, steps=10**6, **changes), resume=True)
    assert str(error.value) == f"{checkpoint_path(tmp_path / 'out')} {message}"


def test_a_checkpoint_of_another_text_is_refused(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    run(replace(config, steps=10**6), stop_after=0.005)
    write_stories(Path(config.data), 81)
    with pytest.raises(CheckpointError, match=r"was made from another text: delete it to start again$"):
        run(replace(config, steps=10**6), resume=True)


def test_a_damaged_checkpoint_is_refused(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    run(replace(config, steps=10**6), stop_after=0.005)
    path = checkpoint_path(tmp_path / "out")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"is damaged \(.*\); delete it to start again$"):
        run(replace(config, steps=10**6), resume=True)


@pytest.mark.parametrize("missing", ["tally", "weights", "random.cpu"])
def test_an_incomplete_checkpoint_is_refused(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, missing: str
) -> None:
    run(replace(config, steps=10**6), stop_after=0.005)
    path = checkpoint_path(tmp_path / "out")
    tensors, state = checkpoint.read(path)
    del tensors[missing]
    checkpoint.write(path, tensors, state)
    with pytest.raises(CheckpointError, match=r"is damaged \(KeyError: .*\); delete it to start again$"):
        run(replace(config, steps=10**6), resume=True)


def test_a_failed_checkpoint_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.write(path, {"a": torch.ones(2)}, {"steps": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as error:
        checkpoint.write(path, {"a": torch.zeros(2)}, {"steps": 2})
    expected = f"{path}: the checkpoint was not written (No space left on device); free some space"
    assert str(error.value) == expected
    assert checkpoint.read(path)[1]["steps"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_run_that_fails_at_the_end_leaves_the_old_artifact_and_can_finish(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(replace(config, seed=4))
    old = weights(tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise ArtifactError("no space left")

    monkeypatch.setattr(artifacts, "save", full)
    with pytest.raises(ArtifactError):
        run(config)
    assert np.array_equal(weights(tmp_path / "out")["embedding.weight"], old["embedding.weight"])
    monkeypatch.undo()
    monkeypatch.setattr(loop, "take_step", lambda *_: pytest.fail("a step was run again"))
    assert run(config, resume=True)
    assert model.load(tmp_path / "out").metrics["seed"] == 1


def test_a_loss_that_is_nan_stops_the_run(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    message = r"^the loss is not a finite number at step \d+: lower --lr \(1e\+30\), or set --clip 1$"
    with pytest.raises(Diverged, match=message):
        run(replace(config, optimiser="adamw", lr=1e30, schedule="constant", ema=0.0))
    assert not (tmp_path / "out").exists()


def scale_losses(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[int], bool], factor: float = torch.nan) -> None:
    """Multiplies the training loss and the gradient of the chosen steps by `factor`."""
    original = Step.differentiate

    def differentiate(self: Step, *arguments: object) -> None:
        original(self, *arguments)
        if chosen(int(self.number)):
            torch._foreach_mul_([*self.parameters.views(self.gradient), self.loss], factor)

    monkeypatch.setattr(Step, "differentiate", differentiate)


@pytest.mark.parametrize("factor", [torch.nan, torch.inf, 1e4])
def test_a_step_without_a_usable_loss_is_left_out(
    config: TrainConfig,
    run: Callable[..., bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    factor: float,
) -> None:
    """It changes no weights, and its loss does not count, even if the run is resumed before the next log line."""
    scale_losses(monkeypatch, {3, 4}.__contains__, factor)
    run(config, "whole")
    reason = "gradients not finite, or a loss above 46 nats per character"
    assert f"\nsteps left out since the last evaluation: 2 ({reason})\n" in capsys.readouterr().err
    whole = model.load(tmp_path / "whole")
    assert [line["step"] for line in whole.log] == [0, 5, 10, 12] and all(line["train"] < 4.7 for line in whole.log)
    stopped_at(monkeypatch, 4)
    with pytest.raises(Interrupted):
        run(config, "parts")
    assert run(config, "parts", resume=True)
    assert [line["train"] for line in model.load(tmp_path / "parts").log] == [line["train"] for line in whole.log]
    assert np.array_equal(weights(tmp_path / "parts")["norm.weight"], weights(tmp_path / "whole")["norm.weight"])


def test_steps_without_a_usable_loss_stop_the_run(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_losses(monkeypatch, lambda step: step >= 15)
    message = r"^20 steps in a row up to step 35 had no usable loss: lower --lr \(0\.005\) and --muon-lr \(0\.02\), "
    with pytest.raises(Diverged, match=message + r"or set --clip 1$"):
        run(replace(config, steps=1000, eval_every=10**6))
    assert not checkpoint_path(tmp_path / "out").exists()


def test_steps_of_which_most_have_no_usable_loss_stop_the_run(
    config: TrainConfig, run: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if there are never enough of them in a row to end the run at once."""
    scale_losses(monkeypatch, lambda step: step % 5 != 0)
    with pytest.raises(Diverged, match=r"^32 of the 40 steps up to step 40 had no usable loss: lower --lr "):
        run(replace(config, steps=1000, eval_every=40))


def test_a_loss_that_explodes_keeps_the_last_good_checkpoint(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    """The rate is a thousand times too high, and each step writes a checkpoint. --clip 1 then lets the run go on."""
    exploding = replace(config, optimiser="adamw", lr=5.0, schedule="wsd", warmup=0.5, cooldown=0.0, steps=200, ema=0.0)
    path = checkpoint_path(tmp_path / "out")
    message = (
        r"^the weights of step \d+ have a loss of [\de.+]+ nats per character: lower --lr \(5\), or set --clip 1; "
    )
    with pytest.raises(Diverged, match=message) as error:
        run(replace(exploding, checkpoint_minutes=1e-9, eval_every=10**6))
    kept = checkpoint.read(path)[1]["steps"]
    assert str(error.value).endswith(f"; {path} is of step {kept} and is kept: go on from it with --resume --clip 1")
    assert kept > 5
    clipped = replace(exploding, clip=1.0, steps=10**6, eval_every=10**6)
    assert not run(clipped, resume=True, stop_after=0.001)
    assert checkpoint.read(path)[1]["steps"] > kept


def test_weights_too_large_for_their_file_are_refused(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    huge = replace(config, optimiser="adamw", lr=1e5, schedule="constant", ema=0.0, steps=2)
    with pytest.raises(Diverged, match=r"^the weights of step 2 are too large for fp16: lower --lr \(100000\)"):
        run(huge)
    assert not (tmp_path / "out").exists()


def test_speeds_come_from_unrounded_times(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    run(replace(config, eval_every=1, eval_stories=1, batch_size=1))
    assert all(line["chars_per_second"] > 0 for line in model.load(tmp_path / "out").log[1:])


def test_a_folder_that_cannot_be_created_is_refused_before_the_first_step(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "take_step", lambda *_: pytest.fail("a step was run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"/file is a file: choose another --out, or move it away$"):
        run(config, "file")
    with pytest.raises(ValueError, match=r"/file/out cannot be created \(Not a directory\): choose another --out$"):
        run(config, "file/out")


def test_compiled_and_eager_runs_log_the_same(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    plain = replace(config, model=replace(config.model, layers=1, dropout=0.0), ema=0.0, steps=4, eval_every=1)
    run(plain, "eager")
    run(replace(plain, compile=True), "compiled")
    eager, compiled = (
        [(line["train"], line["val"]) for line in model.load(tmp_path / name).log] for name in ("eager", "compiled")
    )
    assert len(eager) == 5
    assert np.allclose(eager, compiled, atol=2e-3)  # bf16 in Muon amplifies rounding differences


@pytest.mark.parametrize(
    ("changes", "seconds", "compiles"),
    [
        ({"compile": None, "steps": None, "max_minutes": 9.9}, 0.0, False),
        ({"compile": None, "steps": None, "max_minutes": 10.0}, 0.0, True),
        ({"compile": None, "steps": None, "max_minutes": 12.0}, 130.0, False),  # resumed: so much of it is over
        ({"compile": None, "steps": 12, "max_minutes": 60.0}, 0.0, False),
        ({"compile": None, "steps": 10**9}, 0.0, True),
        ({"compile": None, "steps": 10**9, "max_minutes": 1.0}, 0.0, False),
        ({"compile": True, "steps": 12}, 0.0, True),
        ({"compile": False, "steps": 10**9}, 0.0, False),
    ],
)
def test_only_a_run_that_earns_it_back_compiles(
    config: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    seconds: float,
    compiles: bool,
) -> None:
    config = replace(config, **changes)
    run = Run(config, corpus.prepare(config.data, cache=tmp_path / "cache"), tmp_path)
    run.seconds_before = seconds
    drawn = torch.get_rng_state()
    assert loop.wants_compiling(run) == compiles
    assert torch.equal(torch.get_rng_state(), drawn)  # dropout draws the same with and without
    said = (
        "not compiled: compiling takes minutes, and a run of less than 10 minutes does not save that time; "
        "--compile compiles anyway\n"
    )
    assert capsys.readouterr().err.endswith(said) == (not compiles and config.compile is None)


def test_a_resumed_run_compiles_if_it_did_before(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, compile=None, steps=None, max_minutes=20)
    text = corpus.prepare(config.data, cache=tmp_path / "cache")
    first, resumed = (Run(config, text, tmp_path / "checkpoint") for _ in range(2))
    assert loop.wants_compiling(first)
    first.seconds_before = 19 * 60
    checkpoint.save(first, first.path)
    checkpoint.restore(resumed, first.path)
    assert resumed.seconds == 19 * 60 and loop.wants_compiling(resumed)


def test_a_model_that_no_step_changed_is_not_written(config: TrainConfig, tmp_path: Path) -> None:
    run = Run(config, corpus.prepare(config.data, cache=tmp_path / "cache"), tmp_path / "checkpoint")
    fix = "there is no model to keep: give more --steps or --max-minutes, or a lower --lr"
    with pytest.raises(ValueError, match=f"^none of 0 steps changed the weights, so {fix}$"):
        finish(run, tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_make_clean_removes_the_checkpoints_of_finished_runs_alone(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    for name, stop_after in (("done", None), ("paused", 1e-9)):
        run(config, f"a folder/artifacts/{name}", stop_after=stop_after)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv").mkdir()
    subprocess.run(["make", "--no-print-directory", "clean"], cwd=folder, check=True)
    assert sorted(path.name for path in (folder / "artifacts").iterdir()) == [".paused.run", "done"]
    assert checkpoint_path(folder / "artifacts/paused").exists() and not (folder / ".venv").exists()


def test_windows_widen_to_the_context_within_a_run(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, contexts, original = [], [], Objective.eager

    def spied(*arguments: object, context: int) -> object:
        contexts.append(context)
        return score(*arguments, context=context)

    monkeypatch.setattr(loop, "score", spied)

    def eager(self: Objective, inputs: torch.Tensor, targets: torch.Tensor) -> object:
        shapes.append(tuple(inputs.shape))
        return original(self, inputs, targets)

    monkeypatch.setattr(Objective, "eager", eager)
    run(replace(config, steps=10, window=8, widen=0.7))
    assert shapes == [(16, 8)] * 7 + [(4, 32)] * 3
    assert contexts == [8, 8, 32]
    assert model.load(tmp_path / "out").metrics["characters_seen"] == 10 * 4 * 32


def test_without_a_compiler_a_run_goes_on_uncompiled(
    config: TrainConfig,
    run: Callable[..., bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(config, "eager")

    def broken(function: Callable, **options: object) -> Callable:
        def compiled(*_: object) -> None:
            raise TorchDynamoException("g++: not found")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    run(replace(config, compile=True), "compiled")
    line = "not compiled (TorchDynamoException): steps are slower; install a C++ compiler, or give --no-compile\n"
    assert line in capsys.readouterr().err
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert all(np.array_equal(eager[name], compiled[name]) for name in eager)


def test_a_corpus_smaller_than_a_context_is_refused_before_anything_is_written(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    write_stories(Path(config.data), 3)
    with pytest.raises(
        ValueError, match=r"^the text to train on \(\d+ symbols\) must be longer than the context \(4096\)"
    ):
        run(replace(config, model=replace(config.model, context=4096)))
    with pytest.raises(CorpusError):
        run(replace(config, data=str(tmp_path / "missing.txt")))
    assert not (tmp_path / "out").exists() and not checkpoint_path(tmp_path / "out").exists()


def test_scoring_in_batches_equals_scoring_one_by_one(config: TrainConfig) -> None:
    torch.manual_seed(0)
    network = build(config.model).eval()
    sequences = [torch.randint(0, 97, (n,)).tolist() for n in (2, 31, 32, 33, 34, 50, 100)]
    nats, symbols = score(network, sequences, batch_characters=64)
    alone = [score(network, [ids])[0][0] for ids in sequences]
    assert nats == pytest.approx(alone, abs=1e-4)
    assert symbols.tolist() == [len(ids) - 1 for ids in sequences]


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "SIGINT", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_signal_checkpoints_and_says_how_to_go_on(tmp_path: Path, number: int, name: str, code: int) -> None:
    text = write_stories(tmp_path / "stories.txt", 80)
    command = [sys.executable, "-m", "train", "--preset", "debug", "--data", str(text), "--steps", "1000000"]
    command += ["--eval-every", "50", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "step 50:" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.splitlines()[-1] == f"{name}: the checkpoint is kept; go on with the same command and --resume"
    _, state = checkpoint.read(checkpoint_path(tmp_path / "out"))
    assert state["steps"] >= 50


def test_the_schedule_waits_where_an_update_overflows_in_fp16(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the original's scheduler did. Computed on the CPU in the way of CUDA."""
    monkeypatch.setattr("train.step.precision_of", lambda *_: "fp16")
    scale_losses(monkeypatch, {8}.__contains__, torch.inf)
    cycle = replace(config, optimiser="adamw", schedule="onecycle", steps=20, eval_every=1, eval_stories=1)
    run(cycle)
    rates = {line["step"]: line["lr"] for line in model.load(tmp_path / "out").log}
    expected = {step: schedule(cycle, step - (step > 8), 20) * cycle.lr for step in range(20)}
    assert {step: rates[step] for step in range(20)} == {step: round(rate, 8) for step, rate in expected.items()}


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    text = write_stories(tmp_path / "stories.txt", 80)
    command = [sys.executable, "-m", "train", "--preset", "debug", "--data", str(text), "--context", "32"]
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    command += ["--steps", "30", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # on Linux this means that the other end is closed
            while piece := os.read(ours, 65536):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    assert b"30/30" in shown and b"loss" in shown and b"chars/s" in shown


def test_checkpoints_hold_no_pickle(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    run(replace(config, steps=10**6), stop_after=0.005)
    raw = checkpoint_path(tmp_path / "out").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["state"])["format"] == checkpoint.FORMAT


def test_patience_keeps_the_weights_of_the_best_evaluation_and_ends_the_run(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    """The rate rises until it does harm, so the best evaluation is not the last one."""
    rising = {"schedule": "onecycle", "pct_start": 0.9, "lr": 2.0, "muon_lr": 2.0, "ema": 0.0}
    config = replace(config, **rising, eval_every=1, steps=40, patience=2)
    run(config, "early")
    metrics, log = model.load(tmp_path / "early").metrics, model.load(tmp_path / "early").log
    best = min(log, key=lambda line: line["val"])
    assert metrics["best_step"] == best["step"] < metrics["steps"] == best["step"] + 2 < 40
    assert best["step"] > 2
    assert metrics["nats_per_character"] == pytest.approx(best["val"], abs=2e-3)  # up to rounding to fp16


def test_patience_waits_until_windows_are_whole(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    rising = {"schedule": "onecycle", "pct_start": 0.9, "lr": 2.0, "muon_lr": 2.0, "ema": 0.0}
    run(replace(config, **rising, eval_every=1, steps=20, patience=1, window=8, widen=0.5))
    metrics = model.load(tmp_path / "out").metrics
    assert metrics["best_step"] >= 10 and metrics["steps"] > 10


def test_held_out_stories_are_evaluated_and_never_trained_on(config: TrainConfig, tmp_path: Path) -> None:
    text = corpus.prepare(config.data, cache=tmp_path / "cache")
    end = text.vocab.end
    training, validation = split_every_nth(text.train, text.vocab, 8)
    training = np.concatenate(training)

    def split(stream: np.ndarray) -> list[bytes]:
        assert stream[0] == stream[-1] == end
        return bytes(stream[1:-1]).split(bytes([end]))

    whole = split(text.train)
    assert split(validation) == whole[7::8]
    assert split(training) == [story for number, story in enumerate(whole, 1) if number % 8]
    run = Run(replace(config, apart=8), text, tmp_path / "checkpoint")
    assert bytes(run.batches.text.numpy()) == bytes(training)
    assert [bytes(ids[1:-1]) for ids in run.eval_sequences] == whole[7::8]
    assert len(held_out(run)[0]) == 4  # the final score uses the validation text
    with pytest.raises(
        ValueError, match=r"^apart \(77\) must be at most 76, the number of training stories: give a lower --apart$"
    ):
        Run(replace(config, apart=77), text, tmp_path / "checkpoint")


def test_a_run_that_starts_from_a_model_goes_on_from_its_weights(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path
) -> None:
    run(config, "base")
    base = model.load(tmp_path / "base")
    tales = write_stories(tmp_path / "tales.txt", 60, seed=3)
    tuned = replace(config, data=str(tales), init=str(tmp_path / "base"), model=base.config, final_windows=2, ema=0.0)
    run(replace(tuned, lr=1e-9, muon_lr=1e-9), "same")
    metrics = model.load(tmp_path / "same").metrics
    assert metrics["base"]["name"] == "base" and metrics["base"]["data"].endswith("stories.txt")
    assert metrics["base"]["weights_sha256"] == base.hashes["model.safetensors"]
    assert metrics["nats_per_character"] == pytest.approx(metrics["base"]["nats_per_character"], abs=1e-4)
    assert metrics["windows"]["nats_per_character"] == pytest.approx(metrics["nats_per_character"], abs=0.3)
    run(tuned, "tuned")
    storyteller = model.load(tmp_path / "tuned")
    assert storyteller.metrics["nats_per_character"] < metrics["nats_per_character"] - 0.1
    assert f"| fine-tuned from | base ({metrics['base']['data']}): " in storyteller.card
    first = storyteller.log[0]
    assert first["step"] == 0 and first["train"] == pytest.approx(first["val"], abs=0.3)
    assert "trained from scratch, fine-tuned from base." in storyteller.card


def test_a_student_learns_from_its_teacher(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, "teacher")
    teacher = model.load(tmp_path / "teacher")
    student = replace(config, seed=2, ema=0.0, teacher=str(tmp_path / "teacher"))
    state = Run(student, loop.prepared(student, ALONE, tmp_path / "cache"), tmp_path / "checkpoint")
    state.network.eval()  # no dropout
    inputs, targets = state.batches.batch(0)
    loss, objective = state.step.objective(inputs, targets)
    expected, predicted = (network(inputs).softmax(-1) for network in (teacher.network, state.network))
    of_text = -predicted.gather(-1, targets[..., None]).log().mean()
    divergence = (expected * (expected / predicted).log()).sum(-1).mean()  # Kullback-Leibler
    assert divergence > 0.01
    torch.testing.assert_close(loss, of_text)
    torch.testing.assert_close(objective, (of_text + divergence) / 2)

    run(student, "taught")
    taught = model.load(tmp_path / "taught")
    assert taught.metrics["teacher"]["weights_sha256"] == teacher.hashes["model.safetensors"]
    assert "Half of its loss came from the predictions of teacher, which learned from " in taught.card
    run(replace(student, teacher=None), "alone")
    alone = model.load(tmp_path / "alone")
    assert "teacher" not in alone.metrics and "predictions of" not in alone.card
    # the log holds the loss on the text, without the divergence
    assert taught.log[-1]["train"] == pytest.approx(alone.log[-1]["train"], abs=0.2)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stopped_at(patched, 7)
        run(student, "again")
    run(student, "again", resume=True)
    assert all(np.array_equal(weights(tmp_path / "again")[name], array) for name, array in taught.weights.items())

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stopped_at(patched, 3)
        run(student, "changed")
    run(replace(config, steps=5), "teacher")
    with pytest.raises(CheckpointError, match=r"was made with another teacher in .*teacher: delete it to start again$"):
        run(student, "changed", resume=True)


def test_a_teacher_that_cannot_teach_is_refused(
    config: TrainConfig, run: Callable[..., bool], tiny_classic: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"^teacher \(.*\) has another vocabulary than this text: give one trained on such text$"
    ):
        run(replace(config, teacher=str(tiny_classic)))
    run(replace(config, steps=1), "short")
    wide = replace(config, model=replace(config.model, context=64), teacher=str(tmp_path / "short"))
    message = (
        r"^teacher \(.*short\) has a context of 32, which must be at least that of the student \(64\): lower --context$"
    )
    with pytest.raises(ValueError, match=message):
        run(wide)
    with pytest.raises(ArtifactError, match="nowhere"):
        run(replace(config, teacher=str(tmp_path / "nowhere")))


def test_the_windows_figure_is_nanogpt_s_rule(config: TrainConfig, run: Callable[..., bool], tmp_path: Path) -> None:
    """Compared with the mean over all windows of the last tenth, from which nanoGPT draws its random ones."""
    play = "".join(f"{n} and {n + 1} went up {n % 7} hills.\n" for n in range(400))
    (tmp_path / "play.txt").write_text(play)
    run(replace(config, data=str(tmp_path / "play.txt"), final_windows=40))
    storyteller = model.load(tmp_path / "out")
    held_out, context = play[len(play) * 9 // 10 :], storyteller.config.context
    ids = torch.tensor([storyteller.vocab.stoi[c] for c in held_out])
    rows = ids.unfold(0, context + 1, 1)
    with torch.inference_mode():
        logits = storyteller.network(rows[:, :-1])
        nats = (
            F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1).mean(1)
        )
    figures = storyteller.metrics["windows"]
    error = float(nats.std()) / (figures["batches"] * figures["batch_size"]) ** 0.5
    assert figures["nats_per_character"] == pytest.approx(float(nats.mean()), abs=4 * error + 0.005)  # and end marks


def test_the_final_score_uses_the_beginning_of_one_long_text(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.finish.LONGEST", 50)
    (tmp_path / "play.txt").write_text("".join(f"{n} and {n + 1} went up {n % 7} hills.\n" for n in range(400)))
    for name, stories, symbols in (("quick", 0, 49), ("whole", None, 1140)):
        run(replace(config, data=str(tmp_path / "play.txt"), steps=1, final_stories=stories), name)
        figures = model.load(tmp_path / name).metrics["evaluation"]
        assert figures["symbols"] == pytest.approx(symbols, abs=10)
        assert figures["data"].endswith(", its first 50 symbols") == (name == "quick")


def test_what_is_replayed_is_not_forgotten(
    config: TrainConfig, run: Callable[..., bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config, "base")
    base = model.load(tmp_path / "base")
    tales = tmp_path / "tales.txt"
    tales.write_text(f"\n{END}\n".join(f"{n} times {n} is {n * n}!" * 9 for n in range(60)))
    tuned = replace(config, data=str(tales), init=str(tmp_path / "base"), model=base.config, ema=0.0)
    run(tuned, "without")
    capsys.readouterr()
    run(replace(tuned, replay=config.data, replay_share=0.6), "with")
    assert re.search(
        r"^replayed: stories, \d+ stories, [\d,]+ characters, 60% of the windows; 0 stories removed \(in the",
        capsys.readouterr().err,
        re.M,
    )
    replayed_model = model.load(tmp_path / "with")
    network, known = replayed_model.network, corpus.prepare(config.data, cache=tmp_path / "cache").valid
    stories = stories_in(known, base.vocab)
    kept, lost, before = (
        evaluation(model.load(tmp_path / name).network, stories, "")["nats_per_character"]
        for name in ("with", "without", "base")
    )
    assert network.config == base.config and kept < before + 0.05 < lost
    replayed = replayed_model.metrics["data"]["replay"]
    assert replayed["name"].endswith("stories.txt") and replayed["share"] == 0.6
    with pytest.raises(ValueError, match=r"^replay_share \(1.0\) must be from 0 up to, not including, 1$"):
        replace(tuned, replay_share=1.0)


def test_a_classic_model_is_fine_tuned_in_its_own_vocabulary(
    run: Callable[..., bool], tiny_classic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_stories(tmp_path / "stories.txt", 60)
    base = model.load(tiny_classic)
    config = replace(
        PRESETS["classic"], data=str(text), init=str(tiny_classic), model=base.config, steps=2, eval_windows=1
    )
    run(config)
    assert model.load(tmp_path / "out").vocab == base.vocab
    assert re.search(r"cleaning: 0 characters converted to ASCII, \d+ dropped \('\"' \d+", capsys.readouterr().err)
    with pytest.raises(
        CorpusError, match=r"has no end mark: join them with --cleaning classic, or give a single text$"
    ):
        run(replace(config, cleaning="story"))
