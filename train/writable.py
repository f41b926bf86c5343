"""Fits whatever a text, a file name or a flag may hold into the files of an artifact: its card, and their limits."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from model.parse import FILES

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
LISTED = 200  # files of a text, or different characters, that metrics.json lists at most
TITLE = 200  # characters of a tale's title


def on_one_line(value: Any) -> Any:
    """The same JSON value with a blank for each run of control characters in its texts: a file's name may hold any."""
    if isinstance(value, dict):
        return {name: on_one_line(each) for name, each in value.items()}
    if isinstance(value, list):
        return [on_one_line(each) for each in value]
    return CONTROLS.sub(" ", value) if isinstance(value, str) else value


def cell(text: str) -> str:
    """A text as it stands in a cell of a table in Markdown."""
    return str(text).replace("|", r"\|")


def code(text: str) -> str:
    """A text as code in Markdown: between more backticks than any that it holds."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def shortened(data: dict[str, Any]) -> dict[str, Any]:
    """The report of a text for metrics.json: of long lists the beginning, and one entry that sums up the rest."""
    found = dict(data)
    for name in found.keys() & {"sources", "validation_sources", "books"}:
        found[name] = sources(found[name])
    for name in found.keys() & {"tales", "replay"}:
        found[name] = shortened(found[name])
    if "held_out" in found:
        found["held_out"] = [title[:TITLE] for title in found["held_out"][:LISTED]]
    if len(dropped := found.get("dropped_characters", {})) > LISTED:
        counts = list(dropped.items())  # the most frequent first
        rest = {f"{len(counts) - LISTED:,} others": sum(count for _, count in counts[LISTED:])}
        found["dropped_characters"] = dict(counts[:LISTED]) | rest
    return found


def sources(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(files) <= LISTED:
        return files
    rest = files[LISTED:]
    digest = hashlib.sha256("".join(file["sha256"] for file in rest).encode()).hexdigest()
    others = {"file": f"{len(rest):,} others", "bytes": sum(file["bytes"] for file in rest), "sha256": digest}
    return [*files[:LISTED], others]


def thinned(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log of a run, within the limit of log.jsonl: of too many lines every other one, and the last."""
    while sum(len(json.dumps(line)) + 1 for line in log) > FILES["log.jsonl"]:
        log = [*log[:-1:2], log[-1]]
    return log
