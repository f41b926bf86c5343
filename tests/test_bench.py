"""The benchmark: every engine that is there gets a row that parses, every other a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import GPT, calm_weights, parts

from model import artifacts, bench


def test_one_command_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, figures = tmp_path / "calm", tmp_path / "bench.json"
    artifacts.save(folder, **parts() | {"weights": calm_weights(GPT)})
    assert bench.main([str(folder), "--quick", "--json", str(figures)]) == 0
    out = capsys.readouterr().out
    result = json.loads(figures.read_text())
    assert result["bytes_per_second"] > 1e8

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert rows[0] == [*bench.LISTED, "2 readers", "8 readers"]
    table = {row[0]: row[1:] for row in rows[2:]}
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


def test_what_is_no_artifact_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'} is not a folder")
