"""Runs python -m train in forked processes: a server that imports torch once and causes a fault in each run.

A job is a line of JSON on standard input, its result a line on standard output. A job has `argv` and `cwd`. It may
have: `phase`, `at`, `signals` (the run sends itself the first signal at this call within this phase, and the others at
the next calls), `room` (the disk is full after so many bytes), `memory` (bytes of address space), `every` (steps
between checkpoints), `audit` (report the names that pickle looks up).
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import onnx  # noqa: F401  every run needs it
import onnxruntime  # noqa: F401
import torch._dynamo  # noqa: F401  the optimisers import it

from model import artifacts
from train import checkpoint, loop
from train.__main__ import main
from train.run import Run
from train.text import corpus

PHASES: dict[str, tuple[Any, str]] = {
    "artifact replacement": (artifacts, "_write_folder"),
    "steps": (loop, "take_step"),
    "checkpoint": (checkpoint, "write"),
    "data preparation": (corpus, "_build"),
    "evaluation": (loop, "record"),
    "start": (Run, "__init__"),
    "end": (loop, "finish"),
}


class Moments:
    """Counts calls and returns within a phase, of Python and of C, and sends this process signals from call `at` on."""

    def __init__(self, at: int | None = None, signals: tuple[int, ...] = ()) -> None:
        self.count, self.at, self.signals = 0, at, list(signals)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self.count += 1
        if self.at is not None and self.count >= self.at and self.signals:
            os.kill(os.getpid(), self.signals.pop(0))


def watch(phase: str, moments: Moments) -> None:
    owner, name = PHASES[phase]
    original = getattr(owner, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        outer = sys.getprofile()
        sys.setprofile(moments)
        try:
            return original(*arguments, **options)
        finally:
            sys.setprofile(outer)

    setattr(owner, name, watched)


class FullDisk:
    """Replaces `open`: all files together take `room` bytes, then writing fails as on a full disk."""

    def __init__(self, room: float) -> None:
        self.room, self.writes, self.original = room, [], io.open

    def open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        opened = self.original(file, mode, *arguments, **options)
        if set(mode) & set("wxa+") and file != os.devnull:
            written, path = opened.write, str(file)

            def write(data: Any) -> int:
                raw = len(data.encode() if isinstance(data, str) else memoryview(data).cast("B"))
                self.writes.append((Path(path).name, raw))
                if raw > self.room:
                    written(data[: int(self.room)])
                    self.room = 0
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.room -= raw
                return written(data)

            return Writing(opened, write)
        return opened


class Writing:
    """A file whose `write` is replaced."""

    def __init__(self, file: Any, write: Callable[[Any], int]) -> None:
        self.file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def prepared(job: dict[str, Any]) -> dict[str, Any]:
    """Prepares this process for the faults of the job. Returns a dict that the run fills with what was seen."""
    seen: dict[str, Any] = {"counts": {}, "writes": [], "looked_up": []}
    if phase := job.get("phase"):
        watch(phase, Moments(job["at"], tuple(job["signals"])))
    if job.get("count"):
        moments = {phase: Moments() for phase in PHASES}
        for phase in PHASES:
            watch(phase, moments[phase])
        seen["counts"] = moments
    if every := job.get("every"):
        heartbeat = loop.heartbeat
        loop.heartbeat = lambda run, *rest: (heartbeat(run, *rest)[0], run.steps % every == 0, True)
    if (room := job.get("room")) is not None:
        disk = FullDisk(room)
        builtins.open = io.open = disk.open
        seen["writes"] = disk.writes
    if memory := job.get("memory"):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    if job.get("audit"):
        sys.addaudithook(lambda event, what: event.startswith("pickle.") and seen["looked_up"].append(list(what[-2:])))
    return seen


def child(job: dict[str, Any], answer: int) -> None:
    """Runs the job, writes what was seen to the file descriptor `answer` and exits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job["cwd"])
    code = 1
    with open("out.txt", "a") as out, open("err.txt", "a") as err, redirect_stdout(out), redirect_stderr(err):
        seen = prepared(job)
        try:
            code = main(job["argv"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc(file=err)
    counts = {phase: moments.count for phase, moments in seen["counts"].items()}
    os.write(answer, json.dumps(seen | {"counts": counts}).encode())
    os._exit(code)


def serve() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        for name in ("out.txt", "err.txt"):
            Path(job["cwd"], name).unlink(missing_ok=True)
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            child(job, theirs)
        os.close(theirs)
        with open(ours) as pipe:
            seen = json.loads(pipe.read() or "{}")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        shown = {name: Path(job["cwd"], f"{name}.txt").read_text() for name in ("out", "err")}
        print(json.dumps({"pid": pid, "code": code, **shown, **seen}), flush=True)


if __name__ == "__main__":
    serve()
