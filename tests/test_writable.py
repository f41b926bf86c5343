"""What a text, a file name or a flag may hold is written: nothing that was read at the start fails at the end."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

import model
from model.artifacts import utf8_safe
from model.parse import FILES
from train import report
from train.__main__ import main
from train.flags import refuse
from train.writable import LISTED, code, on_one_line, shortened, thinned

NAME = os.fsdecode(b"a|b`c\n\x1b[31m d\xe9")  # as an archive from another system may leave it


def test_halves_of_characters_are_written_as_what_they_are() -> None:
    given = {"\ud83d": 1, "half": ["\ude00", None, True], "name": os.fsdecode(b"caf\xe9"), "😀 \\ud83d": 0.5}
    expected = {"\\ud83d": 1, "half": ["\\ude00", None, True], "name": "caf\ufffd", "😀 \\ud83d": 0.5}
    assert utf8_safe(given) == expected
    json.dumps(utf8_safe(given), ensure_ascii=False).encode()


def test_a_run_survives_what_its_text_and_its_names_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that was cut off within a character, and file names of any bytes."""
    monkeypatch.setattr(report, "SAMPLE", replace(report.SAMPLE, length=20))
    data, out = tmp_path / f"{NAME}.jsonl", tmp_path / NAME
    texts = ["Tim ran. \ud83d", "\ude00 \udc80 He ran.", *(f"Tom had {n * n} red balls." for n in range(30))]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    argv = ["--preset", "debug", "--data", str(data), "--context", "32", "--steps", "1", "--out", str(out)]
    assert main(argv) == 0
    [storyteller], skipped = model.find(tmp_path)
    metrics, card = storyteller.metrics, storyteller.card
    assert not skipped and storyteller.name == metrics["name"] == "a|b`c\n\x1b[31m d\ufffd"
    assert metrics["data"]["dropped_characters"] == {"\\ud83d": 1, "\\ude00": 1, "\ufffd": 1}
    assert "\n# a|b`c [31m d\ufffd\n" in card and "\x1b" not in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {row.replace(r"\|", "").count("|") for row in rows} == {3}  # two cells each
    assert any(row.startswith("| to train one like it | `` .venv/bin/python -m train ") for row in rows)
    assert f"\n{tmp_path}/{metrics['name']}: " in capsys.readouterr().out


def test_code_in_markdown_holds_backticks() -> None:
    assert [code(text) for text in ("a b", "a`b", "``a`")] == ["`a b`", "`` a`b ``", "``` ``a` ```"]
    assert on_one_line({"a": ["x\r\ny\u2028z", 1, None]}) == {"a": ["x y z", 1, None]}


def test_a_refusal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse("a\nb\x1b.txt is missing") == 2
    assert capsys.readouterr().err == "error: a\\nb\\x1b.txt is missing\n"


def test_lists_of_any_length_fit_into_metrics_json() -> None:
    """A folder of 5,000 files, and a text in which 65,536 characters occur that are dropped."""
    sources = [{"file": f"{n}.txt", "bytes": 3, "sha256": f"{n:064}"} for n in range(5_000)]
    dropped = {chr(code): 0x20000 - code for code in range(0x10000, 0x20000)}
    tales = {"books": sources, "held_out": ["A title" * 100] * 10_000}
    about = {"sources": sources, "validation_sources": sources[:9], "dropped_characters": dropped, "tales": tales}
    found = shortened(about | {"replay": {"sources": sources, "name": "other"}, "name": "many"})
    assert len(json.dumps(found)) < FILES["metrics.json"] / 4
    assert found["sources"][:LISTED] == sources[:LISTED] and found["validation_sources"] == sources[:9]
    assert found["sources"][LISTED] | {"sha256": ""} == {"file": "4,800 others", "bytes": 14_400, "sha256": ""}
    assert found["replay"]["sources"] == found["tales"]["books"] == found["sources"]
    assert sum(found["dropped_characters"].values()) == sum(dropped.values())
    assert len(about["sources"]) == 5_000  # the report itself stays whole


def test_a_log_of_any_length_fits_into_its_file() -> None:
    log = [{"step": n, "train": 1.2345, "val": 1.2345, "lr": 0.001, "characters": n * 2048} for n in range(100_001)]
    found = thinned(log)
    assert sum(len(json.dumps(line)) + 1 for line in found) <= FILES["log.jsonl"]
    assert (found[0], found[1]["step"], found[-1]) == (log[0], 4, log[-1])
    assert thinned(log[:1000]) == log[:1000]
