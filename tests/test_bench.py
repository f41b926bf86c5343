"""The benchmark: every installed engine gets a row that parses, every other engine a reason."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import GPT, parts, small_weights

import model
from docs import bench
from model import artifacts
from model.sampling import Sampling, pick

ROOT = Path(__file__).parent.parent


def test_one_command_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, figures = tmp_path / "calm", tmp_path / "bench.json"
    artifacts.save(folder, **parts() | {"weights": small_weights(GPT)})
    assert bench.main([str(folder), "--quick", "--json", str(figures)]) == 0
    out = capsys.readouterr().out
    result = json.loads(figures.read_text())
    assert result["bytes_per_second"] > 1e8

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert rows[0] == [*bench.LISTED, "2 readers", "8 readers"]
    table = {row[0]: row[1:] for row in rows[2 : 2 + len(result["engines"])]}
    assert list(table) == [row["engine"] for row in result["engines"]]
    ours = {"PyTorch, no cache", "PyTorch, cache", "ONNX Runtime, 32 bits", "ONNX Runtime, 8 bits"}
    assert ours <= table.keys()
    assert table.keys() | result["skipped"].keys() == {name for name, *_ in bench.ENGINES}
    assert all(f"Not measured: {name}: {reason}" in out for name, reason in result["skipped"].items())

    speeds = {name: float(cells[0].replace(",", "")) for name, cells in table.items()}
    assert min(speeds.values()) > 0
    assert table["PyTorch, cache"][1] == "1.0"
    for row in result["engines"]:
        assert row["first_character_ms"] > 0 and row["start_seconds"] > 0 and row["megabytes"] > 10
        assert row["readers"].keys() == ({"2", "8"} if row["engine"] in ours - {"PyTorch, no cache"} else set())


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
    engines = [engine for engine in bench.ENGINES if engine[0] in (bench.BASE, "PyTorch, no cache")]
    monkeypatch.setattr(bench, "ENGINES", engines)
    ask = bench.Worker.ask

    def killed(worker: bench.Worker, readers: int, length: int) -> None:
        if worker.name == bench.BASE:
            worker.process.submit(os._exit, 1)
        ask(worker, readers, length)

    monkeypatch.setattr(bench.Worker, "ask", killed)
    result = bench.measure(tiny_artifact, rounds=1, length=5, readers=())
    assert result["skipped"].keys() == {bench.BASE} and "terminated abruptly" in result["skipped"][bench.BASE]
    assert [row["engine"] for row in result["engines"]] == ["PyTorch, no cache"]
    assert f"Not measured: {bench.BASE}: {result['skipped'][bench.BASE]}" in bench.table(result)


def test_the_page_of_engines_quotes_the_whole_runs() -> None:
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    for name in ("storyteller", "pocket"):
        result = json.loads((ROOT / "docs" / f"bench-{name}.json").read_text())
        storyteller = model.load(ROOT / "artifacts" / name)
        assert result["rounds"] == 5 and result["parameters"] == storyteller.metrics["parameters"]
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
