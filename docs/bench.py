"""Compares engines on the same weights: python docs/bench.py artifacts/storyteller --quick --json bench.json.

Every engine runs in its own process, with one thread per story. The engines take turns in each measurement, so other
load on the machine affects all of them alike. docs/engines.py has the engines.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs.engines import BASES, ENGINES, Engine, Tell  # noqa: E402
from model.artifacts import ArtifactError  # noqa: E402
from model.command import path, run_command  # noqa: E402
from model.storyteller import load  # noqa: E402

POSITIONS = (32, 192, 480, 960)  # characters of the prompts behind which a character is timed
CHARACTERS = 32  # told behind each prompt: so few that the position hardly changes
TRIES = 3  # in each round, because so few characters take only milliseconds
STORY = 200  # characters that each of several readers is told
AGAIN = 100  # how often a story is told again whose first characters came late
# Letters, blanks, commas and full stops: the vocabularies of all models have these.
PASSAGE = (
    "Once upon a time, in a big old house by the sea, there lived a girl who wanted to know how far the water went. "
    "Every morning she walked down to the shore with her little brown dog. She asked the gulls, but the gulls were "
    "busy with a fish. She asked the boats, but the boats only nodded and went on. One day an old man was sitting on "
    "the stones, mending a net. It goes as far as the next girl who asks, he said. She laughed, and the dog barked, "
    "and far away on the other shore somebody waved. "
)


class Clock:
    """Is told whenever characters of a story have come, and takes the times, in seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.told = self.at_once = 0  # at_once: the characters that came first
        self.first = self.last = 0.0  # when the first and the last characters came

    def __call__(self, characters: int) -> None:
        self.last = time.perf_counter() - self.began
        if not self.told:
            self.first, self.at_once = self.last, characters
        self.told += characters

    @property
    def late(self) -> bool:
        """Whether most of the story was told before the reader had its beginning: the rest is too short to time."""
        return 2 * self.at_once > self.told

    @property
    def each(self) -> float:
        """The seconds for each character after the first ones. Reading the prompt is no part of that."""
        return (self.last - self.first) / (self.told - self.at_once)


OPENED: dict[str, Tell] = {}  # used in the process of an engine: its function, by the name of the engine


def start(name: str, opening: Callable[[Path], Tell], path: Path, position: int) -> None:
    """Runs in the process of an engine: opens the engine and tells one character behind a prompt."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, which the engine imports
    OPENED[name] = opening(path)
    OPENED[name](prompt(position), 1, Clock())


def story(name: str, position: int, length: int) -> tuple[float, float]:
    """Runs in the process of an engine: tells a story behind a prompt.

    Returns the seconds until its first character, and the seconds for each character after it. If the first characters
    came late, the story is told again for the second figure. The first figure stays: a reader waits so long.
    """
    first = 0.0
    for _ in range(AGAIN):
        clock = Clock()
        OPENED[name](prompt(position), length, clock)
        first = first or clock.first
        if not clock.late:
            return first, clock.each
    raise RuntimeError(f"most of {length} characters came at once, {AGAIN} times")


def stories(name: str, readers: int, position: int, length: int) -> float:
    """Runs in the process of an engine: returns the characters per second of so many readers together."""
    began = time.perf_counter()
    with ThreadPoolExecutor(readers) as pool:
        list(pool.map(lambda _: OPENED[name](prompt(position), length, Clock()), range(readers)))
    return readers * length / (time.perf_counter() - began)


def memory(name: str) -> float:
    """Runs in the process of an engine: returns its peak memory so far in MB."""
    return peak_memory()


def peak_memory() -> float:
    """The peak memory of this process in MB. Not ru_maxrss on Linux, which includes the parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def prompt(characters: int) -> str:
    """An ordinary English text of so many characters."""
    return (PASSAGE * (1 + characters // len(PASSAGE)))[:characters]


Task = tuple[Callable[..., Any], *tuple[int, ...]]  # a function that runs in an engine's process, and what it takes
MEMORY: Task = (memory,)


class Worker:
    """An engine in its own process, and its measurements. Raises whatever the engine raises."""

    def __init__(self, engine: Engine, folder: Path, position: int, stack: ExitStack) -> None:
        self.engine, self.version = engine, engine.version()
        home = stack.enter_context(tempfile.TemporaryDirectory())
        path = engine.prepare(Path(shutil.copytree(folder, Path(home) / folder.name)))
        self.figures: dict[Task, list[Any]] = {}
        self.process = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        began = time.perf_counter()
        self.process.submit(start, engine.name, engine.load, path, position).result()
        self.start_seconds = time.perf_counter() - began

    def ask(self, function: Callable[..., Any], *numbers: int) -> None:
        answer = self.process.submit(function, self.engine.name, *numbers).result()
        self.figures.setdefault((function, *numbers), []).append(answer)

    def row(self, alone: Sequence[Task], together: Sequence[Task]) -> dict[str, Any]:
        """The figures of this engine: medians, and the peak memory before there were several readers."""
        seconds = {task[1]: statistics.median(each for _, each in self.figures[task]) for task in alone}
        return {
            "engine": self.engine.name,
            "version": self.version,
            "microseconds": {str(position): round(1e6 * each, 1) for position, each in seconds.items()},
            "first_character_ms": round(1e3 * statistics.median(first for first, _ in self.figures[alone[0]]), 2),
            "start_seconds": round(self.start_seconds, 2),
            "megabytes": round(self.figures[MEMORY][0]),
            "readers": {str(task[1]): round(statistics.median(self.figures[task]), 1) for task in together},
        }


def positions(context: int, length: int) -> list[int]:
    """The positions at which a model can tell so many characters before its context is full, or else half of it."""
    # one more symbol opens the story, and the last character is not read
    return [each for each in POSITIONS if each + length <= context] or [context // 2]


def measure(folder: Path, *, rounds: int, tries: int, readers: Sequence[int]) -> dict[str, Any]:
    """The figures of every engine that runs here, and for each other engine the reason why not."""
    folder = folder.resolve()
    storyteller = load(folder)
    length = max(2, min(CHARACTERS, storyteller.config.context // 4))
    places = positions(storyteller.config.context, length)
    alone: list[Task] = [(story, place, length) for place in places]
    together: list[Task] = [(stories, number, places[0], STORY) for number in readers]
    workers: list[Worker] = []
    skipped = {}
    with ExitStack() as stack:
        for engine in ENGINES:
            try:
                workers.append(Worker(engine, folder, places[0], stack))
            except Exception as error:  # each engine raises errors of its own kinds
                skipped[engine.name] = str(error)
        for task in [*alone * tries, MEMORY, *together] * rounds:
            for worker in list(workers):
                if task in together and not worker.engine.shared:
                    continue
                try:
                    worker.ask(*task)
                except Exception as error:
                    skipped[worker.engine.name] = str(error)
                    workers.remove(worker)
    return {
        "artifact": folder.name,
        "parameters": storyteller.metrics["parameters"],
        "weights": storyteller.hashes["model.safetensors"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": rounds,
        "tries": tries,
        "characters": length,
        "positions": [str(place) for place in places],
        "readers": [str(number) for number in readers],
        "engines": [worker.row(alone, together if worker.engine.shared else ()) for worker in workers],
        "skipped": skipped,
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown. In brackets: how many times as fast an engine is as the base, at the same position."""
    places, readers = result["positions"], result["readers"]
    measured = {row["engine"]: row["microseconds"] for row in result["engines"]}
    base = next((name for name in BASES if name in measured), None)

    def speed(row: dict[str, Any], place: str) -> str:
        taken = row["microseconds"][place]
        ratio = measured[base][place] / taken if base else 0
        return f"{taken:,.0f}" + (f" ({ratio:.{1 if ratio >= 0.95 else 2}f}x)" if base else "")

    head = ["engine", "version", *(f"µs at {place}" for place in places)]
    head += ["first character, ms", "start, s", "MB", *(f"{n} readers" for n in readers)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in result["engines"]:
        cells = [
            row["engine"],
            row["version"],
            *(speed(row, place) for place in places),
            f"{row['first_character_ms']:.1f}",
            f"{row['start_seconds']:.1f}",
            f"{row['megabytes']:,}",
            *(f"{row['readers'][n]:,.0f}" if n in row["readers"] else "" for n in readers),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\nNot measured: {name}: {reason}" for name, reason in result["skipped"].items()]
    compared = f", and how many times as fast that is as {base}" if base else ""
    lines.append(
        f"\n{result['artifact']}, {result['parameters']:,} parameters, on {result['machine']}; one thread per story. "
        f"µs at {places[0]}: microseconds a character for the {result['characters']} behind a prompt of {places[0]} "
        f"characters, without the reading of the prompt{compared}; median of {result['rounds'] * result['tries']}. "
        f"First character: behind {places[0]} too. MB: of one story's process. Readers: characters/s that so many at "
        f"once are told together; median of {result['rounds']}."
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python docs/bench.py", description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=path, help="a folder such as artifacts/storyteller")
    parser.add_argument("--quick", action="store_true", help="two short rounds, to check that every engine runs")
    parser.add_argument("--json", type=path, metavar="FILE", help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f"{args.json}: there is no folder {args.json.parent}; create it or choose another file")
    rounds, tries, readers = (2, 1, (2, 8)) if args.quick else (5, TRIES, (2, 8, 32))
    try:
        result = measure(args.artifact, rounds=rounds, tries=tries, readers=readers)
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    run_command(main)
