"""Two ranks of a real torchrun: they have the losses of one process, one rank writes, and they end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests import ranks
from tests.stories import write_stories
from train import checkpoint, flags
from train.__main__ import main
from train.batches import Batches
from train.distributed import ALONE, Ranks, process_group
from train.evaluate import score
from train.interrupts import Interrupted, Stop
from train.loop import checkpoint_path
from train.run import Run
from train.step import StepQueue

pytestmark = pytest.mark.alone
ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
GO_ON = "the checkpoint is kept; go on with the same command and --resume"
PATIENCE = 300  # seconds, enough for a busy machine
SHARED = ("adamw", "muon", "muon in fp32", "compiled", "random windows", "dropout", "overflow", "clock", "resumed")


@contextmanager
def torchrun(*arguments: object) -> Iterator[subprocess.Popen]:
    """Runs a command on two ranks, and ends them with the test."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    command = [*TORCHRUN, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def wait_for_line(process: subprocess.Popen, beginning: str) -> None:
    assert process.stdout is not None
    while not process.stdout.readline().startswith(beginning):
        assert process.poll() is None


def rank_of(process: subprocess.Popen, rank: int) -> int:
    """The process id of a rank that torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    variable = f"\0RANK={rank}\0".encode()
    (found,) = (int(child) for child in children if variable in b"\0" + Path(f"/proc/{child}/environ").read_bytes())
    return found


def debug_run(text: Path, out: Path, *more: str) -> list[str]:
    shape = ["--preset", "debug", "--data", str(text), "--context", "32", "--batch-size", "4", "--out", str(out)]
    return [*shape, "--device", "cpu", "--optimiser", "adamw", "--weights", "fp32", *more]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.txt", 120)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(text: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[..., dict]:
    """The results of a configuration in one process."""
    folder = tmp_path_factory.mktemp("alone")

    def results(name: str, **changes: object) -> dict:
        with pytest.MonkeyPatch.context() as patch:
            return ranks.watch(name, text, folder / str(len(list(folder.iterdir()))), patch, **changes)

    return results


@pytest.fixture(scope="module")
def half(text: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder of a single process that was stopped after 20 steps of the run "resumed"."""
    folder = tmp_path_factory.mktemp("half")
    original = ranks.Watch.take_step

    def take_step(self: ranks.Watch, run: Run, queue: StepQueue) -> None:
        original(self, run, queue)
        if run.steps == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ranks.Watch, "take_step", take_step)
        ranks.watch("resumed", text, folder, patch)
    return folder


@pytest.fixture(scope="module")
def both(text: Path, half: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict, dict]]:
    """The results of each of two ranks for a configuration. One torchrun runs all configurations."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(half / ".resumed.run", folder / ".resumed.run")
    with torchrun("tests/ranks.py", text, folder, *SHARED) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return lambda name: tuple(json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(2))


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("adamw", 1e-4), ("random windows", 1e-4), ("muon in fp32", 1e-4), ("compiled", 2e-3)],
)
def test_two_ranks_have_the_losses_of_one_process(
    name: str, tolerance: float, alone: Callable[..., dict], both: Callable[[str], tuple[dict, dict]]
) -> None:
    """AdamW runs for 50 steps, with accumulation, `window`, `opening`, clipping and a moving average."""
    one, (first, second) = alone(name), both(name)
    assert len(one["losses"]) == ranks.CONFIGS[name].steps
    assert largest_difference(one["losses"], first["losses"]) < tolerance
    assert largest_difference(one["val"], first["val"]) <= tolerance
    assert {**first, "built": 0} == {**second, "built": 0}


def test_muon_differs_from_one_process_by_no_more_than_rounding(
    alone: Callable[..., dict], both: Callable[[str], tuple[dict, dict]]
) -> None:
    """Its bf16 products amplify rounding errors to 3e-4, also when one process groups the same rows differently."""
    one, regrouped, (first, second) = alone("muon"), alone("muon", batch_size=4, accumulate=4), both("muon")
    noise = largest_difference(one["losses"], regrouped["losses"])
    assert 0 < largest_difference(one["losses"], first["losses"]) < max(1e-4, 3 * noise) < 2e-3
    assert first["weights"] == second["weights"]


def test_ranks_have_different_dropout_and_equal_weights(both: Callable[[str], tuple[dict, dict]]) -> None:
    first, second = both("dropout")
    assert first["masks"] != second["masks"]
    assert first["weights"] == second["weights"]


def test_an_overflow_on_one_rank_is_skipped_on_all(
    alone: Callable[..., dict], both: Callable[[str], tuple[dict, dict]]
) -> None:
    first, second = both("overflow")
    assert first["updates"] == second["updates"] == ranks.CONFIGS["overflow"].steps - 1
    assert first["weights"] == second["weights"]
    assert np.isfinite(first["losses"]).all()


def test_all_ranks_use_the_clock_of_one(both: Callable[[str], tuple[dict, dict]]) -> None:
    """The other clock is three times as fast and starts elsewhere. By that clock the run would stop after a third."""
    first, second = both("clock")
    assert len(first["losses"]) == len(second["losses"]) > 3
    assert first["weights"] == second["weights"]


def test_two_ranks_resume_the_run_of_one_process(
    alone: Callable[..., dict], both: Callable[[str], tuple[dict, dict]]
) -> None:
    whole, (first, _) = alone("resumed"), both("resumed")
    assert len(first["losses"]) == 30
    assert largest_difference(whole["losses"][20:], first["losses"]) < 1e-4
    assert largest_difference(whole["val"], first["val"]) <= 1e-4


def test_the_text_is_prepared_once(both: Callable[[str], tuple[dict, dict]]) -> None:
    assert [seen["built"] for seen in both("adamw")] == [["adamw"], []]


def test_gradients_are_reduced_once_a_step(both: Callable[[str], tuple[dict, dict]]) -> None:
    assert ranks.CONFIGS["adamw"].accumulate == 2
    assert [seen["reductions"] for seen in both("adamw")] == [[1] * 50] * 2


def test_the_parts_of_a_batch_make_up_the_batch() -> None:
    numbers = np.random.default_rng(0).integers(0, 97, 500, dtype=np.uint8)
    settings = {"context": 16, "batch_size": 6, "seed": 3, "story_start": 3, "opening": 0.5}
    whole, parts = Batches(numbers, **settings), [Batches(numbers, part=(n, 3), **settings) for n in range(3)]
    for all_of_it, pieces in ((whole, parts), (whole.shortened(8), [part.shortened(8) for part in parts])):
        for step in (0, 5):
            joint = [torch.cat(rows) for rows in zip(*(part.batch(step) for part in pieces), strict=True)]
            assert all(map(torch.equal, joint, all_of_it.batch(step)))


def stopped(number: signal.Signals, argv: list[str], out: Path) -> int:
    """Sends a signal to torchrun during a run. Returns the step of the only checkpoint that is left."""
    with torchrun("-m", "train", *argv) as process:
        wait_for_line(process, "step 10:")
        process.send_signal(number)
        shown, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert errors.count(f"{number.name}: {GO_ON}\n") == 1 and "nats per character" not in shown
    path = checkpoint_path(out)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return checkpoint.read(path)[1]["steps"]


def test_a_sigint_to_torchrun_leaves_one_checkpoint(text: Path, tmp_path: Path) -> None:
    settings = "--steps", "1000000", "--eval-every", "10", "--eval-stories", "2"
    assert stopped(signal.SIGINT, debug_run(text, tmp_path / "out", *settings), tmp_path / "out") >= 10


def test_one_process_resumes_a_run_of_two_ranks_after_a_sigterm(
    text: Path, tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "--steps", "150", "--eval-every", "10", "--eval-stories", "2", "--final-stories", "4"
    ours = debug_run(text, tmp_path / "out", *settings)
    assert 10 <= stopped(signal.SIGTERM, ours, tmp_path / "out") < 150
    assert main(debug_run(text, tmp_path / "whole", *settings)) == 0
    capsys.readouterr()
    assert main([*ours, "--resume"]) == 0
    assert "step 0:" not in capsys.readouterr().out
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert max(np.abs(whole[name] - parts[name]).max() for name in whole) < 1e-3


def test_a_rank_that_is_killed_ends_the_others(text: Path, tmp_path: Path) -> None:
    settings = "--steps", "1000000", "--eval-every", "10", "--checkpoint-minutes", "0.0001"
    with torchrun("-m", "train", *debug_run(text, tmp_path / "out", *settings)) as process:
        wait_for_line(process, "step 10:")
        killed, other = rank_of(process, 1), rank_of(process, 0)
        began = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 30
    assert process.returncode == 1 and not Path(f"/proc/{other}").exists()
    cause = errors.split("Root Cause")[1]
    assert "rank      : 1 " in cause and "Signal 9 (SIGKILL)" in cause
    assert "Connection closed" not in errors and errors.count(GO_ON) == 1
    tensors, state = checkpoint.read(checkpoint_path(tmp_path / "out"))
    assert state["steps"] > 0 and len(tensors) > 5
    assert not (tmp_path / "out").exists()


def test_the_error_of_a_rank_is_printed_first(text: Path, tmp_path: Path) -> None:
    settings = "--steps", "1000000", "--checkpoint-minutes", "1e-9"
    with torchrun("tests/ranks.py", "broken", *debug_run(text, tmp_path / "out", *settings)) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    error = "RuntimeError: the memory of rank 1 is full"
    assert errors.index(f"[rank1]: {error}") < errors.index(f"SIGTERM: {GO_ON}") < errors.index("Root Cause")
    assert error in errors.split("Root Cause")[1]
    assert errors.index("Traceback") < errors.index(error) and "Connection closed" not in errors
    assert checkpoint.read(checkpoint_path(tmp_path / "out"))[1]["steps"] == 5


def test_in_a_single_process_the_methods_of_ranks_do_nothing() -> None:
    tensor, state = torch.ones(2), torch.get_rng_state()
    assert ALONE.sum(tensor) is tensor
    ALONE.average(tensor)
    ALONE.seed(1, 1)
    assert torch.equal(tensor, torch.ones(2)) and torch.equal(torch.get_rng_state(), state)
    assert ALONE.sharded(score) is score
    assert ALONE.heartbeat(1.5, 15, True, False) == (1.5, 15, [True, False])
    assert ALONE.broadcast(state) is state


def test_a_machine_with_another_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "broadcast", lambda self, value: "0123")
    with pytest.raises(
        ValueError, match=r"^the text of this machine \(4567\) differs from that of rank 0: give all machines"
    ):
        Ranks(rank=1, count=2).require_same("4567", "text")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the environment variables that torchrun sets for a rank."""

    def put(rank: int, count: int) -> None:
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost"}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return put


@pytest.mark.parametrize(("rank", "who"), [(0, ""), (1, "rank 1: ")])
def test_a_batch_that_does_not_divide_is_refused_and_rank_0_reports_it_first(
    rank: int,
    who: str,
    place: Callable[..., None],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place(rank, 2)
    waited: list[float] = []
    monkeypatch.setattr(flags, "time", SimpleNamespace(sleep=waited.append))
    assert main(debug_run(text, tmp_path / "out", "--batch-size", "3")) == 2
    message = f"error: {who}batch_size (3) must be a multiple of the number of ranks (2)\n"
    assert capsys.readouterr().err == message
    assert waited == ([5.0] if rank else [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cuda:0", 8, r"^device \(cuda:0\) is a single GPU for 4 ranks: give cuda, so that each has its own$"),
        ("auto", 2, r"^rank 3 has no GPU of its own: --nproc_per_node must be at most 2 on this machine$"),
    ],
)
def test_every_rank_needs_its_own_device(
    place: Callable[..., None], monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, message: str
) -> None:
    place(3, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message), process_group(replace(ranks.MUON, device=device), Stop()):
        pass
