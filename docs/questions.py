"""The original's open questions, answered by runs of its recipes: python docs/questions.py train.txt valid.txt

Each run is a `python -m train`, its outcome a line of docs/questions.jsonl; a run that has its line is not run again,
so the script goes on where it was stopped. docs/plots.py draws what came of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTCOMES = ROOT / "docs/questions.jsonl"
SEEDS = (1, 2, 3)
END = "<|endoftext|>"
MEGABYTE = 1_000_000


def runs() -> list[dict[str, Any]]:
    """All runs, seed by seed, so that a part of them is already a comparison."""
    asked = []
    for seed in SEEDS:
        base = {"seed": seed, "schedule": "onecycle", "steps": 10_000, "precision": "fp32", "megabytes": 20}
        asked.append(base)
        asked.append(base | {"schedule": "constant", "steps": 40_000})  # its log holds the shorter runs as well
        asked += [base | {"megabytes": size} for size in (1, 5)]
        asked.append(base | {"precision": "bf16"})
        asked += [base | {"steps": steps} for steps in (5_000, 20_000, 40_000)]
    return asked


def part_of(train: Path, megabytes: int, folder: Path) -> Path:
    """A file of that size with stories from all over `train`, whose parts come from different sources."""
    if megabytes >= 20:
        return train
    stories = [story for story in train.read_text(encoding="utf-8").split(END) if story.strip()]
    stride = round(sum(map(len, stories)) / (megabytes * MEGABYTE))
    path = folder / f"{megabytes}.txt"
    path.write_text(END.join(stories[::stride]), encoding="utf-8")
    return path


def run(asked: dict[str, Any], train: Path, valid: Path, folder: Path) -> dict[str, Any]:
    out = folder / "out"
    preset = "classic-onecycle" if asked["schedule"] == "onecycle" else "classic"
    settings = {
        "preset": preset,
        "data": part_of(train, asked["megabytes"], folder),
        "valid": valid,
        "steps": asked["steps"],
        "seed": asked["seed"],
        "precision": asked["precision"],
        "eval-every": 5000,
        "final-stories": 500,
        "threads": 1,
        "out": out,
    }
    command = [sys.executable, "-m", "train", *(f"--{name}={value}" for name, value in settings.items())]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return asked | {
        "valid_nats": metrics["nats_per_character"],
        "train": metrics["train_loss"],
        "val": metrics["val_loss"],
        "seconds": metrics["seconds"],
        "log": [{name: line[name] for name in ("step", "train", "val", "seconds")} for line in log],
    }


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    train, valid = (Path(path).resolve() for path in argv)
    done = [json.loads(line) for line in OUTCOMES.read_text().splitlines()] if OUTCOMES.exists() else []
    for asked in runs():
        if any(asked.items() <= outcome.items() for outcome in done):
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(asked, train, valid, Path(folder))
        with OUTCOMES.open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome) + "\n")
        print({name: value for name, value in outcome.items() if name != "log"}, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
