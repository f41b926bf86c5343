"""Answers the original's open questions with runs of its recipes: python docs/questions.py train.txt valid.txt

Each run is a `python -m train` and appends its outcome to docs/questions.jsonl. Runs that have a line there are
skipped, so a stopped script continues where it was. At the end the script updates the table of docs/results.md;
docs/plots.py draws it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs.tables import renew  # noqa: E402
from model.command import path, run_command  # noqa: E402
from train.flags import Parser  # noqa: E402

OUTCOMES = ROOT / "docs/questions.jsonl"
SEEDS = (1, 2, 3)
STEPS = (5_000, 10_000, 20_000, 40_000)
SIZES = (1, 5, 20)  # million characters
END = "<|endoftext|>"
MEGABYTE = 1_000_000


def runs() -> list[dict[str, Any]]:
    """All runs: all seeds of a change together, long runs last, so that the first outcomes can already be compared."""
    base = {"schedule": "onecycle", "steps": 10_000, "precision": "fp32", "megabytes": 20}
    changes: list[dict[str, Any]] = [{}, {"megabytes": 1}, {"megabytes": 5}, {"precision": "bf16"}, {"steps": 5_000}]
    changes += [{"steps": 20_000}, {"schedule": "constant", "steps": 40_000}, {"steps": 40_000}]
    return [base | change | {"seed": seed} for change in changes for seed in SEEDS]


def part_of(train: Path, megabytes: int, folder: Path) -> Path:
    """A file of that size with stories from all over `train`, because its parts come from different sources."""
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


def outcomes() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OUTCOMES.read_text(encoding="utf-8").splitlines()] if OUTCOMES.exists() else []


def of(done: list[dict[str, Any]], figure: str, **asked: Any) -> list[float]:
    """That figure for every seed of a run. With a constant rate it comes from the log of the longest run."""
    if asked.get("schedule") == "constant":
        longest = [x for x in done if x["schedule"] == "constant"]
        return [line[figure] for x in longest for line in x["log"] if line["step"] == asked["steps"]]
    wanted = {"schedule": "onecycle", "steps": 10_000, "precision": "fp32", "megabytes": 20} | asked
    return [x[figure] for x in done if wanted.items() <= x.items()]


def cell(values: list[float]) -> str:
    """The mean of the seeds ± the largest difference from it, and the number of seeds if some have not run yet."""
    if len(values) < 2:
        return f"{values[0]:.3f} (1 seed)" if values else "not run yet"
    mean = statistics.fmean(values)
    missing = "" if len(values) == len(SEEDS) else f" ({len(values)} seeds)"
    return f"{mean:.3f} ± {max(abs(value - mean) for value in values):.3f}{missing}"


def table(done: list[dict[str, Any]]) -> str:
    """The answers as a table for docs/results.md."""

    def row(name: str, cells: list[str]) -> str:
        return f"| {name} | " + " | ".join(cells) + " |"

    def over_steps(**asked: Any) -> list[str]:
        return [cell(of(done, "val", steps=steps, **asked)) for steps in STEPS]

    sizes = [cell(of(done, "valid_nats", megabytes=size)) for size in SIZES]
    return "\n".join(
        [
            row("val loss after", [f"{steps:,} steps" for steps in STEPS]),
            "|---" * (len(STEPS) + 1) + "|",
            row("constant rate 1e-3", over_steps(schedule="constant")),
            row("OneCycle", over_steps()),
            row("OneCycle in bf16", ["", cell(of(done, "val", precision="bf16")), "", ""]),
            "",
            row("OneCycle, 10,000 steps on", [f"{size} MB of stories" for size in SIZES]),
            "|---" * (len(SIZES) + 1) + "|",
            row("nats per character, first 500 stories of `valid.txt`", sizes),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="docs/questions.py", description=__doc__)
    parser.add_argument("train", type=path, help="the text to train on")
    parser.add_argument("valid", type=path, help="the stories to score")
    args = parser.parse_args(argv)
    train, valid = args.train.resolve(), args.valid.resolve()
    done = outcomes()
    for asked in runs():
        if any(asked.items() <= outcome.items() for outcome in done):
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(asked, train, valid, Path(folder))
        with OUTCOMES.open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome) + "\n")
        print({name: value for name, value in outcome.items() if name != "log"}, flush=True)
    renew({"questions": table(outcomes())})
    return 0


if __name__ == "__main__":
    run_command(main)
