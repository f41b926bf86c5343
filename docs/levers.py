"""Levers of pocket, one at a time, seed pairs: python docs/levers.py train.txt valid.txt [NAME ...]

Each run reads as many characters as the others, its outcome a line of docs/levers.jsonl; a run that has its line is not
run again, so the script goes on where it was stopped. Then the table of docs/lab-notes.md is renewed. What did not earn
a place in the network or in the loop is here alone: ReLU-squared and Muon's rising momentum.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs.tables import fill  # noqa: E402
from model import gpt  # noqa: E402
from model.config import ModelConfig  # noqa: E402
from train.distributed import ALONE  # noqa: E402
from train.evaluate import score  # noqa: E402
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
    """Muon's momentum rises from 0.85 over the first 300 steps, as the fastest runs of nanoGPT have it."""

    def rates(self) -> Rates:
        momentum = 0.85 + (self.config.momentum - 0.85) * min(self.steps / 300, 1)
        return super().rates()._replace(momentum=momentum)


class ReLUSquared(nn.Module):
    """An MLP of two matrices; with half as much hidden width again it has SwiGLU's number of weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_width * 3 // 2
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu().square())


@dataclass(frozen=True)
class Lever:
    """What one change of pocket is: settings of the run, of the network, or what neither has; and what came of it."""

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
    torch._dynamo.reset()  # each run compiles its own network, and their number is limited
    with tempfile.TemporaryDirectory() as folder, patch.object(gpt, "SwiGLU", lever.mlp):  # which Block builds
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
    """The outcomes as a table of the lab notes: each seed, and the mean difference of the pairs."""
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


def main(argv: list[str]) -> int:
    if len(argv) < 2 or (unknown := set(argv[2:]) - LEVERS.keys()):
        print(f"no lever: {', '.join(sorted(unknown))}" if len(argv) > 2 else __doc__.splitlines()[0], file=sys.stderr)
        return 2
    train, valid = (Path(path).resolve() for path in argv[:2])
    for name in argv[2:] or LEVERS:
        for seed in SEEDS:
            if any((name, seed) == (outcome["name"], outcome["seed"]) for outcome in outcomes()):
                continue
            outcome = run(name, seed, train, valid)
            with OUTCOMES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcome) + "\n")
            print(outcome, flush=True)
    notes = ROOT / "docs/lab-notes.md"
    notes.write_text(fill(notes.read_text(encoding="utf-8"), {"levers": table(outcomes())}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
