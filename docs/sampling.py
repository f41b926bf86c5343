"""The page's sampling defaults, chosen by how told stories read: python docs/sampling.py ARTIFACT train.txt valid.txt

Tells the same number of stories under each of some settings and judges them beside real ones. The settings whose shares
are nearest to those of real stories come first in the README's table. Outcomes are kept in docs/sampling.jsonl.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import model  # noqa: E402
from docs.tables import fill  # noqa: E402
from train.judge import Judge, Told, tell_many  # noqa: E402
from train.text.corpus import read_stories  # noqa: E402

OUTCOMES = ROOT / "docs/sampling.jsonl"
STORIES = 100
# Shares between 0 and 1 that tell a good story from a bad one; a copy is no virtue, so it is shown and does not count.
JUDGED = ("known_words", "distinct_2", "distinct_3", "closed_quotes", "ended", "name_returns")
SETTINGS: list[dict[str, float]] = [
    *({"temperature": temperature} for temperature in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    *({"temperature": 1.0, "top_p": top_p} for top_p in (0.8, 0.9, 0.95)),
    *({"temperature": 1.0, "min_p": min_p} for min_p in (0.05, 0.1, 0.2)),
    {"temperature": 0.8, "min_p": 0.05},
]


def distance(told: dict[str, Any], real: dict[str, Any]) -> float:
    """How far the judged shares are from those of real stories, on average."""
    return sum(abs(told[name] - real[name]) for name in JUDGED) / len(JUDGED)


def table(outcomes: list[dict[str, Any]]) -> str:
    """The outcomes as a table of the README, the nearest to real stories first."""
    if not outcomes:
        return "Not measured yet."
    real = outcomes[0]["real"]
    ranked = sorted(outcomes, key=lambda outcome: distance(outcome["told"], real))

    def row(name: str, far: str, figures: dict[str, Any]) -> str:
        shares = " | ".join(f"{figures[key]:.3f}" for key in JUDGED)
        return f"| {name} | {far} | {shares} | {figures['copied_worst']} |"

    head = "| settings | distance | known words | pairs | triples | closed quotes | ended | names return | worst copy |"
    lines = [head, "|---" * 9 + "|", row("real stories", "", real)]
    for outcome in ranked:
        name = ", ".join(f"{key.replace('_', '-')} {value:g}" for key, value in outcome["settings"].items())
        lines.append(row(name, f"{distance(outcome['told'], real):.3f}", outcome["told"]))
    return "\n".join(lines)


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OUTCOMES.read_text(encoding="utf-8").splitlines()] if OUTCOMES.exists() else []


def main(argv: list[str]) -> int:
    if len(argv) != 3:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    storyteller, (training, held_out) = model.load(argv[0]), map(Path, argv[1:])
    judge = Judge(read_stories(training))
    real = judge.figures([Told(story, True) for story in islice(read_stories(held_out), STORIES)])
    outcomes = []
    for settings in SETTINGS:
        told = judge.figures(tell_many(storyteller, STORIES, model.Sampling(**settings)))
        outcomes.append({"model": storyteller.name, "settings": settings, "told": told, "real": real})
        print(settings, round(distance(told, real), 4), flush=True)
    OUTCOMES.write_text("".join(json.dumps(outcome) + "\n" for outcome in outcomes), encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), {"sampling": table(outcomes)}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
