"""The table of docs/reliability.md, whose rows the tests write themselves: with RECORD=1, and only then."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
SECTIONS = ("Training", "The page", "Reproducible")
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
HEAD = ["| fault | times tried | outcome | command |", "|---|---|---|---|"]


def record(
    fault: str, times: int, outcome: str, command: str, *, section: str = "Training", page: Path | None = None
) -> None:
    """Puts the row of `fault` into its section of the table, in the place of the one that is there, or as its last.

    A test calls it when all that it asserts has held. Nothing is written unless RECORD=1 is set, so that a plain
    `make test` leaves the tree as it was. `page` is another file than docs/reliability.md.
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
    """What stands before, in and after the block of the table."""
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
    """Text as it may stand in a cell: on one line, its bars as entities."""
    return " ".join(text.split()).replace("|", "&#124;")
