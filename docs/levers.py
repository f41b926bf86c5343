"""Measures changes of pocket, one at a time, with two seeds: python docs/levers.py train.txt valid.txt [NAME ...]

All runs read the same number of characters, unless a lever says otherwise. Each run appends its outcome to
docs/levers.jsonl. Runs that have a line there are skipped, so a stopped script continues where it was. At the end the
script updates the table of docs/lab-notes.md. ReLU-squared and Muon's rising momentum were not taken into the network
or the training, so only this file has them.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs.tables import renew  # noqa: E402
from model import gpt  # noqa: E402
from model.command import path, run_command  # noqa: E402
from model.config import ModelConfig  # noqa: E402
from train.distributed import ALONE  # noqa: E402
from train.evaluate import score  # noqa: E402
from train.flags import Parser  # noqa: E402
from train.interrupts import Stop  # noqa: E402
from train.loop import prepared, until  # noqa: E402
from train.optim import Rates  # noqa: E402
from train.presets import PRESETS, TrainConfig  # noqa: E402
from train.run import Run  # noqa: E402
from train.text.encoded import stories_in  # noqa: E402

OUTCOMES = ROOT / "docs/levers.jsonl"
SEEDS = (1, 2)
STEPS = 2_000
STORIES = 300
BASE = "pocket"
TEACHER = {"teacher": str(ROOT / "artifacts/storyteller")}


class RisingMomentum(Run):
    """Muon's momentum rises from 0.85 over the first 300 steps, as in the fastest runs of nanoGPT."""

    def rates(self) -> Rates:
        momentum = 0.85 + (self.config.momentum - 0.85) * min(self.steps / 300, 1)
        return super().rates()._replace(momentum=momentum)


class ReLUSquared(nn.Module):
    """An MLP of two matrices. Its hidden width is 1.5 times SwiGLU's, so that it has as many weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_width * 3 // 2
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu().square())


@dataclass(frozen=True)
class Lever:
    """One change of pocket, in the run's settings, the network's shape or the code, and the verdict on it."""

    verdict: str
    settings: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    run: type[Run] = Run
    mlp: type[nn.Module] = gpt.SwiGLU

    def config(self, seed: int) -> TrainConfig:
        base = PRESETS["pocket"]
        fixed: dict[str, Any] = {
            "steps": STEPS,
            "max_minutes": None,
            "threads": 1,
            "seed": seed,
            "eval_every": STEPS,
            "eval_stories": 1,
        }
        return replace(base, model=replace(base.model, **self.shape), **(fixed | self.settings))


LEVERS = {
    BASE: Lever(""),
    "context 512, batch 4": Lever("worse by the character", shape={"context": 512}, settings={"batch_size": 4}),
    "context 1,024, batch 2": Lever("worse still", shape={"context": 1024}, settings={"batch_size": 2}),
    "the 5 blocks applied twice (`--loops 2`)": Lever("nothing, for twice the arithmetic", shape={"loops": 2}),
    "ReLU-squared, hidden 192": Lever("worse: the export's SwiGLU costs nothing", mlp=ReLUSquared),
    "`--weight-decay 0.1`": Lever("nothing", settings={"weight_decay": 0.1}),
    "`--cooldown 0.3`": Lever("nothing", settings={"cooldown": 0.3}),
    "`--cooldown 0.75`": Lever("nothing", settings={"cooldown": 0.75}),
    "`--cooldown 0.99`": Lever("worse", settings={"cooldown": 0.99}),
    "`--ema 0.99`": Lever("nothing", settings={"ema": 0.99}),
    "`--opening 0.5`": Lever("worse", settings={"opening": 0.5}),
    "momentum rises from 0.85 to 0.9": Lever("a little, with both seeds; a long run should try it", run=RisingMomentum),
    "`--teacher artifacts/storyteller`": Lever("the most; a step takes 1.8 times as long on a CPU", settings=TEACHER),
    "... in the time of none: 1,100 steps": Lever(
        "worse: on a CPU more characters are worth more", settings=TEACHER | {"steps": 1_100, "eval_every": 1_100}
    ),
}


def run(name: str, seed: int, train: Path, valid: Path) -> dict[str, Any]:
    lever = LEVERS[name]
    config = replace(lever.config(seed), data=str(train), valid=str(valid))
    torch.set_num_threads(1)
    torch._dynamo.reset()  # each run compiles its own network, and torch limits their number
    with tempfile.TemporaryDirectory() as folder, patch.object(gpt, "SwiGLU", lever.mlp):  # Block looks it up there
        state = lever.run(config, prepared(config, ALONE, None), Path(folder) / "checkpoint.safetensors")
        if not until(state, math.inf, Stop()):
            raise RuntimeError(f"{name} did not reach its end")
    with state.with_weights(state.step.average):
        nats, symbols = score(state.network, stories_in(state.text.valid, state.text.vocab, STORIES))
    return {
        "name": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in state.network.parameters()),
        "characters": state.characters,
        "valid_nats": round(float(nats.sum() / symbols.sum()), 5),
    }


def outcomes() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OUTCOMES.read_text(encoding="utf-8").splitlines()] if OUTCOMES.exists() else []


def table(done: list[dict[str, Any]]) -> str:
    """The outcomes as a table for the lab notes: each seed, and the mean difference from the unchanged preset."""
    by_run = {(outcome["name"], outcome["seed"]): outcome for outcome in done}
    if any((BASE, seed) not in by_run for seed in SEEDS):
        return "Not measured yet."
    lines = ["| change | parameters | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | against none | verdict |"]
    lines.append("|---" * (len(SEEDS) + 4) + "|")
    for name, lever in LEVERS.items():
        pair = [by_run[name, seed] for seed in SEEDS if (name, seed) in by_run]
        if len(pair) < len(SEEDS):
            continue
        nats = [outcome["valid_nats"] for outcome in pair]
        change = statistics.fmean(nats) - statistics.fmean(by_run[BASE, seed]["valid_nats"] for seed in SEEDS)
        against = "" if name == BASE else f"{change:+.4f}"
        cells = [f"{pair[0]['parameters']:,}", *(f"{value:.4f}" for value in nats), against, lever.verdict]
        lines.append(f"| {'none' if name == BASE else name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="docs/levers.py", description=__doc__)
    parser.add_argument("train", type=path, help="the text to train on")
    parser.add_argument("valid", type=path, help="the stories to score")
    parser.add_argument("levers", nargs="*", metavar="lever", help=f"those to measure (all): {', '.join(LEVERS)}")
    args = parser.parse_args(argv)
    if unknown := set(args.levers) - LEVERS.keys():
        parser.error(f"no lever: {', '.join(sorted(unknown))}")
    train, valid = args.train.resolve(), args.valid.resolve()
    for name in args.levers or LEVERS:
        for seed in SEEDS:
            if any((name, seed) == (outcome["name"], outcome["seed"]) for outcome in outcomes()):
                continue
            outcome = run(name, seed, train, valid)
            with OUTCOMES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcome) + "\n")
            print(outcome, flush=True)
    renew({"levers": table(outcomes())})
    return 0


if __name__ == "__main__":
    run_command(main)
