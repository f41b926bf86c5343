"""Renews the tables of README.md and docs/ from artifacts/, docs/runs and docs/bench-*.json: python docs/tables.py."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs import bench  # noqa: E402
from model.command import run_command  # noqa: E402
from model.sampling import USUAL  # noqa: E402
from model.storyteller import find  # noqa: E402
from train.flags import Parser  # noqa: E402
from train.report import READING, SAMPLE_PROMPT, figure, is_tinystories  # noqa: E402

PAGES = [ROOT / name for name in ("README.md", "docs/results.md", "docs/engines.md", "docs/lab-notes.md")]
ORIGINAL = {"classic": (1.3293, 1.3342), "classic-onecycle": (1.1208, 1.1370)}  # its train and val loss
NANOGPT = "nanoGPT's character model has 1.470 with 10.65 M parameters"
TOLD = replace(USUAL, length=400, seed=7)

Metrics = dict[str, Any]  # of a metrics.json


def results(artifacts: Path, runs: Path) -> dict[str, str]:
    """The tables by the name of their block; `runs` holds the metrics.json of other seeds."""
    every = sorted(map(_read, artifacts.glob("[!.]*/metrics.json")), key=lambda m: m["nats_per_character"])
    models = [m for m in every if is_tinystories(m["data"])]
    return {
        "results": _models(models),
        "seeds": _seeds(artifacts, runs),
        "stories": _readings(models),
        "voices": _voices([m for m in every if m not in models], runs),
    }


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _models(models: Sequence[Metrics]) -> str:
    """The models of TinyStories, all measured on the same held-out stories."""
    head = ["model", "parameters", "nats per character", "first 500 stories", "characters seen", "training"]
    rows = []
    for m in models:
        first = m["evaluation"].get("first_500")
        link, nats = f"[{m['name']}](artifacts/{m['name']})", f"{m['nats_per_character']:.3f}"
        cells = [link, f"{m['parameters']:,}", nats, f"{first:.3f}" if first else ""]
        seen = f"{m['characters_seen'] / 1e6:,.1f} M"
        rows.append([*cells, seen, f"{m['seconds'] / 60:.0f} min, {m['device']}"])
    return _table(head, rows)


def _seeds(artifacts: Path, runs: Path) -> str:
    """The original's recipes, three seeds of each."""
    rows = []
    for name, (train, val) in ORIGINAL.items():
        others = sorted(runs.glob(f"{name}-seed[23]/metrics.json"))
        seeds = [_read(path) for path in (*artifacts.glob(f"{name}/metrics.json"), *others)]
        if len(seeds) < 3:
            continue
        means = [sum(m[key] for m in seeds) / 3 for key in ("train_loss", "val_loss")]
        each = [f"{m['val_loss']:.4f}" for m in seeds]
        rows.append([f"`{name}`", *each, f"{means[0]:.4f}", f"**{means[1]:.4f}**", f"{train:.4f} / {val:.4f}"])
    head = ["recipe", "seed 1", "seed 2", "seed 3", "mean train", "mean val", "the original: train / val"]
    return _table(head, rows)


def _voices(models: Sequence[Metrics], runs: Path) -> str:
    """The models of other texts, each measured on a part of its own text that it did not see, and their other seeds."""
    rows = []
    for m in models:
        beside = []
        if windows := m.get("windows"):
            beside.append(f"{windows['nats_per_character']:.3f} by nanoGPT's rule, where {NANOGPT}")
        if base := m.get("base"):
            beside.append(f"{base['nats_per_character']:.3f}: {base['name']}, untuned")
        seeds = [_read(path)["nats_per_character"] for path in sorted(runs.glob(f"{m['name']}-seed*/metrics.json"))]
        also = f" (other seeds: {', '.join(f'{nats:.3f}' for nats in seeds)})" if seeds else ""
        other = m.get("others", {}).get("valid.txt", {})
        kept = f"{other['nats_per_character']:.3f}" if other.get("stories") == 100 else ""
        nats = f"{m['nats_per_character']:.3f}{also}"
        link = f"[{m['name']}](../artifacts/{m['name']})"
        rows.append([link, f"{m['parameters']:,}", m["evaluation"]["data"], nats, "; ".join(beside), kept])
    head = ["model", "parameters", "held-out text", "nats per character", "beside", "TinyStories, first 100 stories"]
    return _table(head, rows)


def _readings(models: Sequence[Metrics]) -> str:
    """How the stories of every model that was judged read, beside real ones."""
    judged = [m for m in models if "stories" in m]
    columns = [m["stories"]["held_out"] for m in judged[:1]] + [m["stories"]["told"] for m in judged]
    rows = [[name, *(figure(column[key]) for column in columns)] for key, name in READING.items()]
    return _table(["share or number", "real stories", *(m["name"] for m in judged)], rows)


def told(folder: Path) -> str:
    """One prompt told by every artifact in `folder` at one seed, the best model first."""
    parts = []
    for storyteller in find(folder)[0]:
        story = SAMPLE_PROMPT + "".join(storyteller.tell(SAMPLE_PROMPT, TOLD))
        lines = textwrap.fill(story, 110, replace_whitespace=False).splitlines()
        parts.append(f"**{storyteller.name}**\n\n" + "\n".join(f"> {line}" if line else ">" for line in lines))
    return "\n\n".join(parts)


def speeds() -> dict[str, str]:
    """The tables of docs/engines.md by the name of their block."""
    return {path.stem: bench.table(_read(path)) for path in sorted((ROOT / "docs").glob("bench-*.json"))}


def renew(blocks: dict[str, str]) -> None:
    """Puts each block into the page that has its marks. Raises ValueError for a block without a page."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        here = {name: block for name, block in blocks.items() if f"<!-- {name} -->" in text}
        page.write_text(fill(text, here), encoding="utf-8")
        found |= here.keys()
    if lost := blocks.keys() - found:
        raise ValueError(f"no page has the marks of {', '.join(sorted(lost))}")


def fill(text: str, blocks: dict[str, str]) -> str:
    """`text` with what stands between <!-- name --> and <!-- /name --> replaced by the block of that name."""
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"the text has no block {begin} ... {end}")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n{block}\n{end}{rest.split(end, 1)[1]}"
    return text


def _read(path: Path) -> Metrics:
    return json.loads(path.read_text(encoding="utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    Parser(prog="docs/tables.py", description=__doc__).parse_args(argv)
    renew(results(ROOT / "artifacts", ROOT / "docs/runs") | speeds() | {"told": told(ROOT / "artifacts")})
    return 0


if __name__ == "__main__":
    run_command(main)
