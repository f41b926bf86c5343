"""Faults that a training run must survive: kills, signals, full disks, exploding losses, damaged files, a second run.

`make test` runs short forms of these tests, and `make torture` runs them in full. With RECORD=1 it also writes
docs/reliability.md.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model import artifacts
from tests.stories import write_stories
from tests.torture.record import FULL, record
from train import checkpoint
from train.checkpoint import CheckpointError
from train.lock import exclusive_output
from train.loop import checkpoint_path
from train.text import corpus

ROOT = Path(__file__).parents[2]
SHORT = ["--steps", "20", "--eval-every", "8", "--context", "32", "--batch-size", "4"]
LENGTH = [] if FULL else SHORT
EVERY = 7  # steps between checkpoints
PHASES = ("artifact replacement", "steps", "checkpoint", "data preparation", "evaluation", "start", "end")
KEPT = "the checkpoint is kept; go on with the same command and --resume"
LOST = "stopped before the first checkpoint"
UNLIKE = {"seconds", "chars_per_second", "commit"}  # these depend on the clock, and on edits during the test

Job = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def forked() -> Iterator[Job]:
    """Runs a job of tests/torture/forked.py in a folder. Its text is in the parent folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/torture/forked.py"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None and server.stdout is not None

        def do(folder: Path, *arguments: str, **job: Any) -> dict[str, Any]:
            argv = ["--preset", "debug", "--data", "../stories.txt", "--out", "out", *LENGTH, *arguments]
            server.stdin.write(json.dumps({"cwd": str(folder), "argv": argv, "every": EVERY} | job) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield do
        server.stdin.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_stories(folder / "stories.txt", 80)
    return folder


@pytest.fixture(scope="module")
def older(forked: Job, home: Path) -> Path:
    """The artifact that exists in every folder before a run: it has another seed."""
    folder = home / "older"
    folder.mkdir()
    assert forked(folder, "--seed", "9", "--steps", "2")["code"] == 0
    return folder / "out"


@pytest.fixture(scope="module")
def whole(forked: Job, home: Path, older: Path) -> dict[str, Any]:
    """An undisturbed run, with the number of calls in each of its phases and its writes to the disk."""
    folder = home / "whole"
    shutil.copytree(older, folder / "out")
    done = forked(folder, count=True, room=1e18)
    assert done["code"] == 0, done["err"]
    return done | {"folder": folder}


@pytest.fixture
def fresh(home: Path, older: Path) -> Iterator[Callable[[], Path]]:
    """Makes folders that already hold an older artifact. They are deleted after the test."""
    made: list[Path] = []

    def make() -> Path:
        made.append(home / f"run-{len(made)}")
        shutil.copytree(older, made[-1] / "out")
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def untimed(value: Any) -> Any:
    """JSON without the keys that may differ."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in UNLIKE}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def assert_same(ours: Path, theirs: Path) -> None:
    """Asserts that two artifacts have the same bytes, except for times."""
    one, other = artifacts.read(ours), artifacts.read(theirs)
    for name in ("model.safetensors", "stoi.json", "itos.json", "model.onnx"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    for part in ("metrics", "log"):
        assert untimed(getattr(one, part)) == untimed(getattr(other, part))
    assert one.graph_trouble is None and one.graph == other.graph is not None


def assert_old_or_new(out: Path, older: Path, whole: dict[str, Any]) -> str:
    """Returns whether an artifact is the old or the new one. Either must load."""
    found = artifacts.read(out)
    if contents(out) == contents(older):
        return "old"
    assert found.hashes["model.safetensors"] == artifacts.read(whole["folder"] / "out").hashes["model.safetensors"]
    return "new"


def assert_resumes(forked: Job, folder: Path, whole: dict[str, Any]) -> None:
    done = forked(folder, "--resume")
    assert done["code"] == 0, done["err"]
    assert_same(folder / "out", whole["folder"] / "out")
    assert sorted(os.listdir(folder / ".out.run")) == ["checkpoint.safetensors"]
    assert sorted(os.listdir(folder)) == [".cache", ".out.run", "err.txt", "out", "out.txt"]
    left = os.listdir(folder / ".cache" / "corpus")  # a killed process leaves its unfinished folder
    assert len([name for name in left if not name.startswith((".preparing-", "sources."))]) == 1


def moments(whole: dict[str, Any], count: int, seed: int) -> Iterator[tuple[str, int]]:
    """Random calls from a seed, in each phase in turn."""
    draw = random.Random(seed)
    for number in range(count):
        phase = PHASES[number % len(PHASES)]
        yield phase, draw.randint(1, int(0.95 * whole["counts"][phase]))


def interrupt(
    forked: Job, fresh: Callable[[], Path], phase: str, at: int, signals: list[int]
) -> tuple[Path, dict[str, Any]]:
    """Runs a job that gets the signals at that call of a phase, or at an earlier one if the phase has fewer calls."""
    while at:
        folder = fresh()
        done = forked(folder, phase=phase, at=at, signals=signals)
        if done["code"]:
            return folder, done
        at = at * 9 // 10
    raise AssertionError(f"no signal arrived in {phase}")


def test_killed_and_resumed_is_undisturbed(
    forked: Job, whole: dict[str, Any], older: Path, fresh: Callable[[], Path]
) -> None:
    kills, seen = 30 if FULL else 3, {"old": 0, "new": 0}
    for phase, at in moments(whole, kills, seed=1):
        folder, killed = interrupt(forked, fresh, phase, at, [9])
        assert killed["code"] == -9, (phase, at, killed)
        seen[assert_old_or_new(folder / "out", older, whole)] += 1
        assert (folder / ".out.run" / "lock").exists()
        assert_resumes(forked, folder, whole)
    record(
        f"SIGKILL at a seeded random moment of a debug run ({', '.join(PHASES)}), then --resume",
        kills,
        "weights, vocabulary, graph, log and figures are byte for byte those of an uninterrupted run, except for "
        f"times; after the kill the artifact loads ({seen['old']} times the old one, {seen['new']} times the new one); "
        "no other files are left",
        'make torture ARGS="-k killed_and_resumed"',
    )


@pytest.mark.parametrize(
    ("name", "signals", "code"),
    [("SIGINT", [2], 130), ("SIGTERM", [15], 143), ("SIGINT, SIGINT", [2, 2], 130)],
    ids=["int", "term", "twice"],
)
def test_a_signal_ends_a_run_in_one_line(
    forked: Job,
    whole: dict[str, Any],
    older: Path,
    fresh: Callable[[], Path],
    name: str,
    signals: list[int],
    code: int,
) -> None:
    """The second SIGINT comes at the next call, so there is no time for a checkpoint, and none is needed."""
    count = 2 * len(PHASES) if FULL else 1
    for phase, at in moments(whole, count, seed=2 + code + len(signals)):
        folder, stopped = interrupt(forked, fresh, phase, at, signals)
        assert stopped["code"] == code, (phase, at, stopped)
        kept = checkpoint_path(folder / "out").exists()
        assert stopped["err"].splitlines()[-1] == f"{name.split(',')[0]}: {KEPT if kept else LOST}"
        assert "Traceback" not in stopped["err"]
        assert_old_or_new(folder / "out", older, whole)
        assert not (folder / ".out.run" / "lock").exists()
        assert_resumes(forked, folder, whole)
    record(
        f"{name} at a seeded random moment of a debug run",
        count,
        f"exit code {code}, one line that says how to resume; the resumed run is identical to an uninterrupted one",
        'make torture ARGS="-k signal_ends"',
    )


def test_a_second_sigint_ends_at_once(forked: Job, fresh: Callable[[], Path]) -> None:
    """It arrives during a step, whose end the first one waits for: no further step, no checkpoint."""
    folder = fresh()
    for signals, said in (([2, 2], LOST), ([2], KEPT)):
        stopped = forked(folder, phase="steps", at=100, every=10**6, signals=signals)
        assert (stopped["code"], stopped["err"].splitlines()[-1]) == (130, f"SIGINT: {said}")
    _, state = checkpoint.read(checkpoint_path(folder / "out"))
    assert state["steps"] == 1


def test_a_full_disk_damages_nothing(
    forked: Job, whole: dict[str, Any], older: Path, fresh: Callable[[], Path]
) -> None:
    """The disk becomes full in the middle of a write: each write in turn, or one of each kind in the short form."""
    writes = whole["writes"]
    names = [name for name, _ in writes]
    chosen = range(len(writes)) if FULL else [names.index("train.bin"), names.index("checkpoint.new"), -3]
    refused = 0
    for number in chosen:
        number %= len(writes)
        folder = fresh()
        full = forked(folder, room=sum(size for _, size in writes[:number]) + writes[number][1] // 2)
        last = full["err"].splitlines()[-1]
        assert "Traceback" not in full["err"]
        assert full["code"] == 2, full
        assert last.startswith("error: ") and "no space left" in last.lower()
        assert "free some" in last or "make room" in last
        refused += 1
        assert_old_or_new(folder / "out", older, whole)
        if (path := checkpoint_path(folder / "out")).exists():
            checkpoint.read(path)
        assert_resumes(forked, folder, whole)
    record(
        "the disk fills up during a write: each write of a debug run in turn",
        refused,
        "one line that names the file and the fix, exit code 2; the artifact is the old one or the new one; the "
        "checkpoint is intact, and the resumed run is identical to an uninterrupted one",
        'make torture ARGS="-k full_disk"',
    )


def test_a_loss_that_explodes_ends_within_bounds(forked: Job, fresh: Callable[[], Path], older: Path) -> None:
    """Rates up to a billion times too high: a run ends with a one-line error, or with an artifact that loads."""
    rates = (0.5, 2, 5, 50, 1e3, 1e6, 1e9) if FULL else (5,)
    kinds = [(a, o) for a in ("gpt", "classic") for o in ("adamw", "muon")] if FULL else [("classic", "adamw")]
    ended = finished = 0
    before = contents(older)
    for rate in rates:
        for architecture, optimiser in kinds:
            folder = fresh()
            shape = ["--architecture", architecture, "--optimiser", optimiser, "--schedule", "constant"]
            speed = ["--lr", f"{rate:g}", "--muon-lr", f"{rate:g}", "--eval-every", "100000", "--steps", "60"]
            done = forked(folder, *SHORT, *shape, *speed, every=1)
            assert "Traceback" not in done["err"], done["err"]
            if done["code"] == 0:
                finished += 1
                artifacts.read(folder / "out")
                continue
            ended += 1
            last = done["err"].splitlines()[-1]
            assert done["code"] == 2 and last.startswith("error: ") and f": lower --lr ({rate:g})" in last
            assert contents(folder / "out") == before
            if (path := checkpoint_path(folder / "out")).exists():
                assert f"; .out.run/checkpoint.safetensors is of step {checkpoint.read(path)[1]['steps']} and" in last
    assert ended >= len(kinds) * len(rates) // 2
    record(
        "learning rates 100 to 200,000,000,000 times too high, both architectures and optimisers",
        ended + finished,
        f"{ended} stopped with a line that names the learning rates, kept the last good checkpoint and left the old "
        f"artifact unchanged; {finished} finished with finite weights",
        'make torture ARGS="-k explodes_ends"',
    )


def test_out_of_memory_says_what_to_try(forked: Job, fresh: Callable[[], Path], older: Path) -> None:
    batches = (400_000, 4_000_000, 20_000_000) if FULL else (20_000_000,)
    for batch in batches:
        folder = fresh()
        full = forked(folder, *SHORT, "--batch-size", str(batch), memory=4 * 2**30)
        assert full["code"] == 2, full["err"]
        assert full["err"].splitlines()[-1] == (
            f"error: out of memory on auto: {batch} windows (batch_size) of 32 characters (context) and 2 layers of "
            f"width 32 do not fit; try --batch-size {batch // 2} --accumulate 2 (steps of the same size) or "
            "--context 16"
        )
        assert contents(folder / "out") == contents(older)
    record(
        "a batch that does not fit into memory (the CPU, with 4 GiB of address space)",
        len(batches),
        "one line that names the batch and the context and suggests smaller ones; the old artifact is unchanged",
        'make torture ARGS="-k out_of_memory"',
    )


def test_a_second_run_into_one_artifact_is_refused(forked: Job, fresh: Callable[[], Path], older: Path) -> None:
    folder = fresh()
    lock = checkpoint_path(folder / "out").with_name("lock")
    with exclusive_output(folder / "out", lock):
        second = forked(folder, *SHORT)
        fix = "wait until it ends, stop it, or choose another --out"
        assert second["code"] == 2
        assert second["err"].splitlines()[-1] == f"error: out is being trained by another process: {fix}"
        assert contents(folder / "out") == contents(older) and os.listdir(lock.parent) == ["lock"]
        assert not (folder / ".cache").exists()
        (folder / "link").symlink_to(folder / "out")  # the same artifact by another name
        linked = forked(folder, *SHORT, "--out", "link")
        assert linked["code"] == 2 and "link is being trained by another process: " in linked["err"]
    assert not lock.parent.exists()
    lock.parent.mkdir()
    lock.touch()  # as a killed run leaves it
    assert forked(folder, *SHORT)["code"] == 0
    assert not lock.exists()
    record(
        "a second run into the same artifact, also through a link; a lock file that a killed run left",
        3,
        "the second is refused at once; a stale lock is taken over",
        'make torture ARGS="-k second_run"',
    )


@pytest.fixture
def stopped(forked: Job, fresh: Callable[[], Path]) -> Path:
    """The folder of a run that a signal stopped, and its checkpoint."""
    folder = fresh()
    assert forked(folder, *SHORT, phase="evaluation", at=13000, signals=[15])["code"] == 143
    return folder


def damaged(raw: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged copies of a file: cut short, or with one flipped bit, for half of them in the header (first 4 KiB)."""
    draw = random.Random(seed)
    for number in range(count):
        if number % 4 == 0:
            yield raw[: draw.randrange(len(raw))]
            continue
        at = draw.randrange(min(len(raw), 4096) if number % 2 else len(raw))
        yield raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]


def test_every_damage_to_a_checkpoint_is_found(stopped: Path) -> None:
    path = checkpoint_path(stopped / "out")
    raw, count = path.read_bytes(), 2000 if FULL else 60
    checkpoint.read(path)
    messages = set()
    for wrong in damaged(raw, count, seed=5):
        path.write_bytes(wrong)
        with pytest.raises(
            CheckpointError, match=r"; delete it to start again$|, or delete it to start again$"
        ) as error:
            checkpoint.read(path)
        messages.add(str(error.value).removeprefix(f"{path} ").split("(")[0])
    assert {"is damaged ", "is not what was written "} <= messages
    record(
        "a checkpoint that is truncated or has one flipped bit",
        count,
        "refused every time, with the fix",
        'make torture ARGS="-k damage_to_a_checkpoint"',
    )


def test_every_damage_to_a_cache_is_found(home: Path, tmp_path: Path) -> None:
    text = home / "stories.txt"
    made = corpus.prepare(text, cache=tmp_path)
    whole = {"train": bytes(made.train), "valid": bytes(made.valid)}
    folder = Path(made.train.filename).parent
    count = 0
    for name in ("train.bin", "valid.bin", "corpus.json"):
        for wrong in damaged((folder / name).read_bytes(), 200 if FULL else 8, seed=6):
            (folder / name).write_bytes(wrong)
            with contextlib.redirect_stderr(said := io.StringIO()):
                again = corpus.prepare(text, cache=tmp_path)
            assert said.getvalue().startswith(str(folder)) and said.getvalue().endswith(": preparing it again\n")
            assert {"train": bytes(again.train), "valid": bytes(again.valid)} == whole
            assert (again.vocab, again.report) == (made.vocab, made.report)
            count += 1
    record(
        "a cached text that is truncated or has one flipped bit, in each of its files",
        count,
        "found every time, reported in one line that names the folder, and made again from the source",
        'make torture ARGS="-k damage_to_a_cache"',
    )


def test_each_reason_to_refuse_a_checkpoint_has_its_message(forked: Job, stopped: Path, older: Path) -> None:
    path = checkpoint_path(stopped / "out")
    raw = path.read_bytes()
    tensors, state = checkpoint.read(path)

    def written(**changes: Any) -> bytes:
        """A valid checkpoint with a changed state."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "FORMAT", changes.pop("format", checkpoint.FORMAT))
            checkpoint.write(path, tensors, state | changes)
        return path.read_bytes()

    del state["format"]
    flipped = raw[:-100] + bytes([raw[-100] ^ 4]) + raw[-99:]
    anew, settings = "delete it to start again", written(config=state["config"] | {"lr": 0.5})
    header = "is damaged (Error while deserializing: "
    cases = {
        raw[:-100]: f"{header}incomplete metadata, file not fully covered); {anew}",
        b"\x80\x04K\x01.": f"{header}header too small); {anew}",
        flipped: f"is not what was written (its SHA-256 differs); {anew}",
        written(
            format=checkpoint.FORMAT + 1
        ): f"has format 6 of a newer version, this one reads 5: use the newer version, or {anew}",
        written(format=1): f"has format 1, not 5; {anew}",
        settings: f"was made with lr 0.5, this run has 0.005: give --lr 0.5, or {anew}",
        written(fingerprint="0" * 16): f"was made from another text: {anew}",
    }
    for wrong, message in cases.items():
        path.write_bytes(wrong)
        refused = forked(stopped, *SHORT, "--resume")
        assert (refused["code"], refused["err"].splitlines()[-1]) == (
            2,
            f"error: .out.run/checkpoint.safetensors {message}",
        )
        assert path.read_bytes() == wrong and contents(stopped / "out") == contents(older)
    path.write_bytes(raw)
    assert forked(stopped, *SHORT, "--resume")["code"] == 0
    record(
        "--resume with a checkpoint that is truncated, has a flipped bit, has a newer or older format, has other "
        "settings, is of another text, or is a pickle",
        len(cases),
        "each refused with its own message, exit code 2; checkpoint and artifact are unchanged",
        'make torture ARGS="-k reason_to_refuse"',
    )


UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe(path: Path) -> list[str]:
    """The names in a source file that could load a pickle."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if name.split(".")[0] in UNSAFE]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.jit.load", "np.load"):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            found.append(node.arg)
    return found


def test_no_pickle_is_loaded(forked: Job, fresh: Callable[[], Path]) -> None:
    """Neither by the sources nor by the libraries they call: Python reports every class that a pickle looks up."""
    sources = [ROOT / "app.py", *(path for part in ("model", "train", "page") for path in (ROOT / part).rglob("*.py"))]
    assert {str(path): found for path in sources if (found := unsafe(path))} == {}
    folder = fresh()
    runs = [forked(folder, *SHORT, audit=True, phase="steps", at=3_000, signals=[15])]
    runs += [forked(folder, *SHORT, "--resume", audit=True) for _ in range(2)]
    if FULL:  # the second run must not load what the first one compiled
        runs += [forked(fresh(), *SHORT, "--compile", audit=True) for _ in range(2)]
    assert runs[0]["code"] == 143 and [run["code"] for run in runs[1:]] == [0] * (len(runs) - 1)
    assert [run["looked_up"] for run in runs] == [[]] * len(runs)
    record(
        "loading a pickle: in the source files, and by Python's own audit of a run that is stopped and resumed",
        len(sources) + len(runs),
        "no pickle is loaded",
        'make torture ARGS="-k no_pickle"',
    )
