"""The table of docs/reliability.md: one row per fault, in the order of the sections, written only on request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.record import PAGE, record

ROOT = Path(__file__).parent.parent
EMPTY = "# Reliability\n\n<!-- faults -->\n| fault |\n|---|\n<!-- /faults -->\n\nBelow.\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "reliability.md"
    path.write_text(EMPTY)
    return path


def test_rows_are_replaced_and_keep_their_order(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECORD", "1")
    record("a flood", 2, "answered", "make torture", section="The page", page=page)
    record("killed", 3, "the same weights", "make torture", page=page)
    record("a | in\na fault", 1, "so\nit is", "a | b", page=page)
    record("killed", 3000, "the same weights again", "make torture", page=page)
    assert page.read_text() == (
        "# Reliability\n\n<!-- faults -->\n"
        "| fault | times tried | outcome | command |\n|---|---|---|---|\n"
        "| **Training** | | | |\n"
        "| killed | 3,000 | the same weights again | `make torture` |\n"
        "| a &#124; in a fault | 1 | so it is | `a &#124; b` |\n"
        "| **The page** | | | |\n"
        "| a flood | 2 | answered | `make torture` |\n"
        "<!-- /faults -->\n\nBelow.\n"
    )
    assert [path.name for path in page.parent.iterdir()] == [page.name]


def test_nothing_is_written_without_a_request(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECORD", raising=False)
    record("killed", 3, "the same weights", "make torture", page=page)
    assert page.read_text() == EMPTY
    with pytest.raises(ValueError, match=r"^section \(Traning\) must be one of Training, The page, Reproducible$"):
        record("killed", 3, "the same weights", "make torture", section="Traning")


def test_the_page_itself_has_the_block() -> None:
    assert PAGE.read_text().count("<!-- faults -->") == PAGE.read_text().count("<!-- /faults -->") == 1


def test_a_plain_run_has_short_forms_of_the_long_tests() -> None:
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "--collect-only", "-p", "no:cacheprovider"]
    command += ["--ignore-glob=tests/test_*.py"]  # importing them takes seconds
    plain = {name: value for name, value in os.environ.items() if name != "TORTURE"}
    listed = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True).stdout
    files = {line.split("::")[0] for line in listed.splitlines() if line.startswith("tests/torture/")}
    short = ("page_crowd", "reproducible", "suite", "training_faults")
    assert files == {f"tests/torture/test_{name}.py" for name in short}
