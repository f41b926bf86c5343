"""The benchmark: every installed engine gets a row that parses, every other engine a reason."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import GPT, LETTERS, parts, small_weights

import model
from docs import bench, engines, loops
from model import artifacts
from model.sampling import Sampling, pick
from train.export import transformers as export_transformers

ROOT = Path(__file__).parent.parent
LLAMA, BASE = engines.BASES
SHARED = {BASE, "C loops as in llama2.c", "ONNX Runtime, 32 bits", "ONNX Runtime, 8 bits"}


def loops_run() -> bool:
    """Whether this machine has a C compiler."""
    return any(map(shutil.which, loops.COMPILERS))


def test_one_command_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, figures = tmp_path / "calm", tmp_path / "bench.json"
    config = replace(GPT, context=256)  # room behind prompts of 32 and of 192 characters
    artifacts.save(folder, **parts(config) | {"weights": small_weights(config)})
    assert bench.main([str(folder), "--quick", "--json", str(figures)]) == 0
    out = capsys.readouterr().out
    result = json.loads(figures.read_text())
    assert (result["positions"], result["characters"], result["rounds"]) == (["32", "192"], 32, 2)

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    columns = ["µs at 32", "µs at 192", "first character, ms", "start, s", "MB", "2 readers", "8 readers"]
    assert rows[0] == ["engine", "version", *columns]
    table = {row[0]: row[1:] for row in rows[2:]}
    assert list(table) == [row["engine"] for row in result["engines"]]
    assert (SHARED | {"PyTorch, no cache"}) - table.keys() == (set() if loops_run() else {"C loops as in llama2.c"})
    assert table.keys() | result["skipped"].keys() == {engine.name for engine in bench.ENGINES}
    assert all(f"Not measured: {name}: {reason}" in out for name, reason in result["skipped"].items())

    base = LLAMA if LLAMA in table else BASE
    assert f"how many times as fast that is as {base}" in out
    assert [cell.split()[1] for cell in table[base][1:3]] == ["(1.0x)", "(1.0x)"]
    assert table[BASE][0] == f"torch {metadata.version('torch')}"
    assert table["ONNX Runtime, 8 bits"][0] == f"onnxruntime {metadata.version('onnxruntime')}"
    for row in result["engines"]:
        assert row["version"] == table[row["engine"]][0]
        assert row["microseconds"].keys() == {"32", "192"} and min(row["microseconds"].values()) > 0
        assert row["first_character_ms"] > 0 and row["start_seconds"] > 0 and row["megabytes"] > 10
        assert row["readers"].keys() == ({"2", "8"} if row["engine"] in SHARED else set())
        assert min(row["readers"].values(), default=1) > 0


def test_a_prompt_has_its_length_and_ordinary_characters() -> None:
    assert [len(bench.prompt(n)) for n in (0, 1, 32, 960, 5_000)] == [0, 1, 32, 960, 5_000]
    assert bench.prompt(5_000).startswith(bench.prompt(960)) and set(bench.PASSAGE) <= set(LETTERS)


@pytest.mark.parametrize(
    ("context", "expected"),
    [(1024, [32, 192, 480, 960]), (992, [32, 192, 480, 960]), (991, [32, 192, 480]), (223, [32])],
)
def test_positions_are_those_that_fit_the_context(context: int, expected: list[int]) -> None:
    assert bench.positions(context, 32) == expected


def test_a_context_without_room_behind_any_prompt_is_measured_at_its_half() -> None:
    assert bench.positions(63, 32) == [31] and bench.positions(64, 32) == [32]


def clock(monkeypatch: pytest.MonkeyPatch, pieces: Iterable[tuple[float, int]]) -> bench.Clock:
    """A clock that was told of so many characters at these seconds."""
    now = [100.0]
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    made = bench.Clock()
    for seconds, characters in pieces:
        now[0] = 100 + seconds
        made(characters)
    return made


def test_the_clock_leaves_out_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    found = clock(monkeypatch, [(5, 1), (5.5, 1), (7, 2)])
    assert (found.first, found.each, found.late) == (5, pytest.approx(2 / 3), False)
    pieces = clock(monkeypatch, [(5, 3), (6, 4)])  # what came with the first character is not timed either
    assert (pieces.each, pieces.late) == (0.25, False)
    assert clock(monkeypatch, [(5, 4), (6, 3)]).late and clock(monkeypatch, [(5, 32)]).late


def test_a_story_whose_beginning_came_late_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its characters after the beginning are then too few to time. Its first character counts all the same."""
    now, told, late = [0.0], [], 2

    def tell(prompt: str, length: int, on_characters: engines.OnCharacters) -> None:
        told.append((prompt, length))
        for seconds, piece in [(3.0, 7), (0.5, 1)] if len(told) <= late else [(1.0, 2), (1.5, 6)]:
            now[0] += seconds
            on_characters(piece)

    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setitem(bench.OPENED, "engine", tell)
    assert bench.story("engine", 40, 8) == (3.0, 0.25) and told == [(bench.prompt(40), 8)] * 3
    late = 1_000
    with pytest.raises(RuntimeError, match=r"^most of 8 characters came at once, 100 times$"):
        bench.story("engine", 40, 8)


def test_the_engines_take_turns_in_each_measurement(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Callable[..., object], tuple[int, ...]]] = []

    class Worker:
        def __init__(self, engine: engines.Engine, folder: Path, position: int, stack: ExitStack) -> None:
            self.engine = engine

        def ask(self, function: Callable[..., object], *numbers: int) -> None:
            asked.append((self.engine.name, function, numbers))

        def row(self, *_: object) -> dict[str, object]:
            return {"engine": self.engine.name}

    monkeypatch.setattr(bench, "Worker", Worker)
    monkeypatch.setattr(bench, "ENGINES", bench.ENGINES[:2])  # the second can tell several stories at once
    result = bench.measure(tiny_artifact, rounds=2, tries=2, readers=(3,))
    names = [engine.name for engine in bench.ENGINES]
    story = [(name, bench.story, (16, 8)) for name in names]  # the context is 32
    memory = [(name, bench.memory, ()) for name in names]
    assert asked == [*story, *story, *memory, (BASE, bench.stories, (3, 16, bench.STORY))] * 2
    assert result["engines"] == [{"engine": name} for name in names] and result["positions"] == ["16"]


def test_a_folder_without_artifact_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'} is not a folder")


def test_a_file_that_cannot_be_written_is_refused_before_measuring(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main([str(tiny_artifact), "--json", str(tmp_path / "none" / "bench.json")])
    assert f"there is no folder {tmp_path / 'none'}" in capsys.readouterr().err


def test_an_engine_that_crashes_is_named_and_the_others_continue(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ENGINES", bench.ENGINES[:2])
    ask = bench.Worker.ask

    def killed(worker: bench.Worker, *task: object) -> None:
        if worker.engine.name == BASE:
            worker.process.submit(os._exit, 1)
        ask(worker, *task)

    monkeypatch.setattr(bench.Worker, "ask", killed)
    result = bench.measure(tiny_artifact, rounds=1, tries=1, readers=())
    assert result["skipped"].keys() == {BASE} and "terminated abruptly" in result["skipped"][BASE]
    assert [row["engine"] for row in result["engines"]] == ["PyTorch, no cache"]
    assert f"Not measured: {BASE}: {result['skipped'][BASE]}" in bench.table(result)
    assert "as fast" not in bench.table(result)  # there is nothing to compare with


def test_an_engine_that_is_not_installed_names_the_command(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = engines.Engine("absent", engines.package("no-such-engine"), engines.unchanged, engines.cached)
    monkeypatch.setattr(bench, "ENGINES", [absent])
    result = bench.measure(tiny_artifact, rounds=1, tries=1, readers=())
    reason = "not installed; install it with: .venv/bin/python -m pip install no-such-engine"
    assert (result["engines"], result["skipped"]) == ([], {"absent": reason})


def result_of(**microseconds: float) -> dict[str, object]:
    """A result with one engine for each name, measured behind 32 characters."""
    same = {"version": "v 1", "first_character_ms": 1.0, "start_seconds": 1.0, "megabytes": 50, "readers": {}}
    rows = [{"engine": name, "microseconds": {"32": taken}} | same for name, taken in microseconds.items()]
    head = {"artifact": "a", "parameters": 1, "machine": "m", "rounds": 1, "tries": 1, "characters": 32}
    return head | {"positions": ["32"], "readers": ["2"], "engines": rows, "skipped": {}}


def test_speeds_are_compared_with_llama_cpp_or_else_with_pytorch() -> None:
    table = bench.table(result_of(**{BASE: 1_000.0, LLAMA: 100.0, "quick": 40.0}))
    for cells in (f"{BASE} | v 1 | 1,000 (0.10x)", f"{LLAMA} | v 1 | 100 (1.0x)", "quick | v 1 | 40 (2.5x)"):
        assert f"| {cells} | 1.0 | 1.0 | 50 |  |" in table
    assert "quick | v 1 | 40 (25.0x)" in bench.table(result_of(**{BASE: 1_000.0, "quick": 40.0}))
    assert "quick | v 1 | 40 |" in bench.table(result_of(quick=40.0))


@pytest.mark.usefixtures("tiny_numbers")
@pytest.mark.parametrize("load", ["plain", "cached", "onnx", "c_loops", "transformers"])
def test_every_engine_says_each_character_once(load: str, tiny_artifact: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    path = tiny_onnx if load == "onnx" else tiny_artifact
    if load == "transformers":
        path = tmp_path / "exported"
        export_transformers.write(model.load(tiny_artifact), path)
    if load == "c_loops":
        if not loops_run():
            return
        path = engines.compiled(Path(shutil.copytree(tiny_artifact, tmp_path / "compiled")))
    tell = getattr(engines, load)(path)
    for length in (1, 9):
        pieces: list[int] = []
        tell("Once upon", length, pieces.append)
        assert sum(pieces) == length and pieces[0] >= 1
        assert load == "onnx" or pieces == [1] * length


def test_the_page_of_engines_quotes_the_whole_runs() -> None:
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    for name in ("storyteller", "pocket"):
        result = json.loads((ROOT / "docs" / f"bench-{name}.json").read_text())
        storyteller = model.load(ROOT / "artifacts" / name)
        assert (result["rounds"], result["tries"]) == (5, bench.TRIES) and result["skipped"] == {}
        assert result["positions"] == [str(n) for n in bench.positions(storyteller.config.context, bench.CHARACTERS)]
        assert result["parameters"] == storyteller.metrics["parameters"]
        assert result["weights"] == storyteller.hashes["model.safetensors"]
        assert f"<!-- bench-{name} -->\n{bench.table(result)}\n<!-- /bench-{name} -->" in page


@pytest.mark.alone
@pytest.mark.parametrize("name", ["pocket", "storyteller"])
def test_sampling_takes_less_than_15_percent_of_a_character(name: str) -> None:
    """For the smallest network, whose characters are the cheapest, and the page's; in processor time of this thread."""
    sampling = Sampling(seed=1)
    decoder, generator = model.load(ROOT / "artifacts" / name).decoder(), np.random.default_rng(1)
    shares = []
    for _ in range(9):
        decoder.reset()
        started, read, ids = time.thread_time(), 0.0, [1]
        for _ in range(200):
            began = time.thread_time()
            logits = decoder.feed(ids)
            read += time.thread_time() - began
            ids = [pick(logits, sampling, generator)]
        shares.append(1 - read / (time.thread_time() - started))
    assert statistics.median(shares) < 0.15
