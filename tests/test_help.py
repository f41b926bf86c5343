"""--help explains a command and does nothing else."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = [
    *(f"docs.{path.stem}" for path in sorted((ROOT / "docs").glob("*.py")) if "def main(" in path.read_text("utf-8")),
    *("app", "model.__main__", "train.__main__", "train.evaluate", "train.speed", "train.text.tales"),
    *("train.export.__main__", "train.push.__main__"),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_and_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])  # as Python has it for a script in docs/
    command = importlib.import_module(name)
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: pytest.fail("a file was written"))
    monkeypatch.setattr(Path, "write_bytes", lambda *_, **__: pytest.fail("a file was written"))
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ") and "--help" in shown
    # one that has neither help nor a description tells nobody anything
    assert len(re.sub(r"^usage:.*?\n\n", "", shown, flags=re.DOTALL)) > 100
