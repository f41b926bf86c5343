"""The blind reading from which the page's settings were chosen.

python docs/reading.py tell ARTIFACT valid.txt FOLDER   writes the readers' files and docs/reading/told.jsonl
python docs/reading.py tally FOLDER                     reads their grades: docs/reading/grades.jsonl, docs/results.md

Beginnings of held-out stories are continued under several settings; the writer's own continuation is added. Every
reader gets all texts, shuffled, in a file of their own (FOLDER/reader-N.txt) and writes three grades for each text
into FOLDER/reader-N.json.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import model  # noqa: E402
from docs.tables import renew  # noqa: E402
from model.command import path, run_command  # noqa: E402
from model.sampling import USUAL, Sampling  # noqa: E402
from train.flags import Parser  # noqa: E402
from train.text.corpus import read_stories  # noqa: E402

KEPT = ROOT / "docs/reading"
READERS = 1, 2
BEGINNINGS = 24
STORIES = 600  # of the held-out ones, the first; others were read while the rule of telling was developed
LENGTHS = range(450, USUAL.length + 1)  # characters of a whole story
REAL = "real stories"
BEFORE = Sampling(length=600, temperature=0.9)  # the page's settings before there were drafts
SETTINGS = [
    BEFORE,
    *(replace(BEFORE, length=USUAL.length, temperature=temperature) for temperature in (0.9, 0.7, 0.5)),
    replace(USUAL, drafts=8, beams=1),
    USUAL,
    replace(USUAL, drafts=6, beams=4),
    replace(USUAL, drafts=8, beams=4),
    replace(USUAL, temperature=0.7, drafts=6, beams=4),
]
GRADES = "grammar", "coherence", "interest"


def name(sampling: Sampling) -> str:
    """The name of these settings in the table: the values that differ from plain sampling."""
    plain = Sampling(length=USUAL.length, temperature=1.0)
    changed = {each: value for each, value in vars(sampling).items() if value != getattr(plain, each)}
    return ", ".join(f"{each.replace('_', '-')} {value:g}" for each, value in changed.items())


def beginnings(stories: list[str]) -> list[tuple[str, str]]:
    """Splits each story after its first sentence, or after its second if the first is short."""
    parts = []
    for story in stories:
        sentences = re.split(r"(?<=[.!?])(?=\s)", story)
        begin = "".join(sentences[: 1 if len(sentences[0]) >= 60 else 2])
        parts.append((begin, story[len(begin) :]))
    return parts


def tell(artifact: str, held_out: Path, folder: Path) -> None:
    storyteller, rng = model.load(artifact), random.Random(18)
    numbered = enumerate(islice(read_stories(held_out), STORIES))
    chosen = rng.sample([(i, story) for i, story in numbered if len(story) in LENGTHS], BEGINNINGS)
    parts = beginnings([story for _, story in chosen])
    told: list[dict[str, Any]] = []
    for (i, _), (begin, rest) in zip(chosen, parts, strict=True):
        told.append({"story": i, "settings": REAL, "text": rest.strip()})
        for sampling in SETTINGS:
            text = "".join(storyteller.tell(begin, replace(sampling, seed=i)))
            told.append({"story": i, "settings": name(sampling), "text": text.strip()})
        print(i, flush=True)
    begins = {i: begin for (i, _), (begin, _) in zip(chosen, parts, strict=True)}
    for reader in READERS:
        lines, key = [], {}
        for i in rng.sample(list(begins), len(begins)):
            lines.append(f"=== BEGINNING: {begins[i]}\n")
            of_this = [each for each in told if each["story"] == i]
            for each in rng.sample(of_this, len(of_this)):
                number = f"T{len(key) + 1:03d}"
                key[number] = {"story": i, "settings": each["settings"]}
                lines.append(f"--- {number}\n{each['text']}\n")
        (folder / f"reader-{reader}.txt").write_text("\n".join(lines), encoding="utf-8")
        (folder / f"key-{reader}.json").write_text(json.dumps(key), encoding="utf-8")
    write("told", [each for each in told if each["settings"] != REAL])


def tally(folder: Path) -> None:
    graded = []
    for reader in READERS:
        key, given = (json.loads((folder / f"{each}-{reader}.json").read_text()) for each in ("key", "reader"))
        graded += [key[number] | {"reader": reader, "grades": given[number]} for number in key]
    write("grades", graded)
    renew({"reading": table()})


def write(what: str, lines: list[dict[str, Any]]) -> None:
    (KEPT / f"{what}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read(what: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (KEPT / f"{what}.jsonl").read_text(encoding="utf-8").splitlines()]


def grades() -> dict[str, list[float]]:
    """The mean grades in the order of `GRADES`, by the name of the settings; real stories have one too."""
    of: dict[str, list[list[float]]] = {}
    for line in read("grades"):
        of.setdefault(line["settings"], []).append(line["grades"])
    return {settings: [statistics.fmean(each) for each in zip(*given, strict=True)] for settings, given in of.items()}


def table() -> str:
    """The mean grades as a table for docs/results.md, best first."""
    lines = [f"| settings | {' | '.join(GRADES)} | sum |", "|---" * 5 + "|"]
    for settings, means in sorted(grades().items(), key=lambda item: -sum(item[1])):
        lines.append(f"| {settings} | {' | '.join(f'{mean:.1f}' for mean in means)} | {sum(means):.1f} |")
    return "\n".join(lines)


def agreement() -> float:
    """The correlation of the two readers' sums of grades."""
    sums: dict[tuple[int, str], list[float]] = {}
    for line in read("grades"):
        sums.setdefault((line["story"], line["settings"]), []).append(sum(line["grades"]))
    return statistics.correlation(*zip(*sums.values(), strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="docs/reading.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    telling = steps.add_parser("tell", help="have the artifact tell, and write what readers are given")
    telling.add_argument("artifact")
    telling.add_argument("held_out", type=path)
    for step in (telling, steps.add_parser("tally", help="take the readers' grades")):
        step.add_argument("folder", type=path)
    args = parser.parse_args(argv)
    if args.step == "tell":
        tell(args.artifact, args.held_out, args.folder)
    else:
        tally(args.folder)
        print(f"{table()}\nreaders' sums correlate with {agreement():.2f}")
    return 0


if __name__ == "__main__":
    run_command(main)
