"""Writes rows of the table in docs/reliability.md. Tests call this; it writes only with RECORD=1."""

from __future__ import annotations

import os
from pathlib import Path

FULL = os.environ.get("TORTURE") == "1"  # set by make torture; a plain make test tries fewer cases
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
SECTIONS = ("Training", "The page", "Reproducible")
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
HEAD = ["| fault | times tried | outcome | command |", "|---|---|---|---|"]


def record(
    fault: str, times: int, outcome: str, command: str, *, section: str = "Training", page: Path | None = None
) -> None:
    """Writes the row of `fault` into its section of the table: replaces the row of this name, or appends one.

    A test calls it after its last assertion. It writes nothing unless RECORD=1 is set, so a plain `make test` does not
    change the tree. `page` names another file instead of docs/reliability.md.
    Raises ValueError for a section that the table lacks.
    """
    if section not in SECTIONS:
        raise ValueError(f"section ({section}) must be one of {', '.join(SECTIONS)}")
    if os.environ.get("RECORD") != "1":
        return
    page = page or PAGE
    before, table, after = _parts(page.read_text(encoding="utf-8"))
    rows = _rows(table)
    rows[section][_cell(fault)] = f"| {_cell(fault)} | {times:,} | {_cell(outcome)} | `{_cell(command)}` |"
    lines = list(HEAD)
    for name, found in rows.items():
        lines += [f"| **{name}** | | | |", *found.values()] if found else []
    scratch = page.with_name(f".{page.name}.new")
    scratch.write_text("\n".join([before + BEGIN, *lines, END + after]), encoding="utf-8")
    scratch.replace(page)


def _parts(text: str) -> tuple[str, str, str]:
    """The text before, in and after the block of the table."""
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    return before, table, after


def _rows(table: str) -> dict[str, dict[str, str]]:
    """The lines of the table by section and fault."""
    rows: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}
    section = SECTIONS[0]
    for line in table.strip().splitlines()[len(HEAD) :]:
        first = line.split(" | ")[0].removeprefix("| ")
        if first.startswith("**"):
            section = first.strip("*")
        else:
            rows[section][first] = line
    return rows


def _cell(text: str) -> str:
    """Text for a table cell: on one line, with bars as entities."""
    return " ".join(text.split()).replace("|", "&#124;")
