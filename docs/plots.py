"""Draws the loss curves of the README and of docs/results.md from the logs beside the weights: python docs/plots.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import questions

from model.command import run_command
from train.flags import Parser
from train.presets import PRESETS  # importable because questions puts the project's folder on the path

ROOT = Path(__file__).parent.parent
# From the original's log: (step, val loss), and for OneCycle (step, learning rate before the step).
ORIGINAL_VAL = {"classic": [(5000, 1.3342)], "classic-onecycle": [(1000, 1.7251), (10_000, 1.1370)]}
ORIGINAL_RATE = [
    (1000, 0.00340110), (2000, 0.00670220), (3000, 0.00999857), (4000, 0.00857014), (5000, 0.00714171),
    (6000, 0.00571329), (7000, 0.00428486), (8000, 0.00285643), (9000, 0.00142943), (9999, 0.00000243),
]  # fmt: skip


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def draw_classics(target: Path) -> None:
    """Validation loss of both recipes (three seeds each) and the learning rate, with the original's log lines."""
    figure, (loss, rate) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for colour, (name, points) in zip(("tab:orange", "tab:blue"), ORIGINAL_VAL.items(), strict=True):
        folders = [ROOT / "artifacts" / name, *(ROOT / "docs/runs" / f"{name}-seed{seed}" for seed in (2, 3))]
        for number, folder in enumerate(folders):
            log = read_log(folder)
            label = f"{name}, 3 seeds" if number == 0 else None
            loss.plot([x["step"] for x in log], [x["val"] for x in log], colour, lw=1, label=label)
        loss.plot(*zip(*points, strict=True), "x", color=colour, ms=9, mew=2, label=f"{name}, the original")
    loss.set(xlabel="step", ylabel="val loss (nats per character)", ylim=(1.05, 2.0))
    log = read_log(ROOT / "artifacts/classic-onecycle")
    rate.plot([x["step"] for x in log], [x["lr"] for x in log], "tab:blue", lw=1, label="classic-onecycle, seed 1")
    rate.plot(*zip(*ORIGINAL_RATE, strict=True), "x", color="black", ms=7, label="the original's log")
    rate.set(xlabel="step", ylabel="learning rate before the step")
    for axes in (loss, rate):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def draw_pocket(target: Path) -> None:
    """Pocket's loss against the number of characters that it has seen."""
    log = read_log(ROOT / "artifacts/pocket")[1:]  # the first line is the untrained network
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    seen = [line["characters"] / 1e6 for line in log]
    axes.plot(seen, [line["train"] for line in log], lw=1, label="train (mean since the line before)")
    axes.plot(seen, [line["val"] for line in log], lw=1.5, label="val (nats per character, 200 stories)")
    # val is scored in windows of the whole context: it is high until the network has trained on windows of that size
    seconds = [line["seconds"] for line in log]
    widened = np.interp(PRESETS["pocket"].widen * seconds[-1], seconds, seen)  # pocket has max_minutes: a share of time
    axes.axvline(widened, color="grey", lw=1, ls=":")
    axes.text(widened, 1.17, " windows widen from 128 to 256", fontsize=8)
    axes.set(xlabel="million characters seen", ylabel="nats per character", ylim=(0.65, 1.2))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def draw_sizes(target: Path) -> None:
    """Loss against the size of the network; each was trained for ten minutes on one core (docs/sizes.jsonl)."""
    pilots = [json.loads(line) for line in (ROOT / "docs/sizes.jsonl").read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    millions = [pilot["parameters"] / 1e6 for pilot in pilots]
    axes.plot(millions, [pilot["valid_nats"] for pilot in pilots], "o-", lw=1)
    for pilot, size in zip(pilots, millions, strict=True):
        label = f"width {pilot['width']}, {pilot['characters'] / 1e6:.1f} M characters"
        axes.annotate(label, (size, pilot["valid_nats"]), (6, -10), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="million parameters", ylabel="nats per character, 300 stories", xlim=(0.6, 16))
    axes.set_xticks(millions, [f"{size:.1f}" for size in millions])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110)


def draw_questions(target: Path) -> None:
    """The effect of steps, schedule, precision and text on the original's network: a dot per seed, lines of means."""
    done = questions.outcomes()
    figure, panels = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")

    def line(axes: plt.Axes, figure_name: str, label: str, vary: str, values: tuple, colour: str, **asked: str) -> None:
        points = {value: questions.of(done, figure_name, **asked, **{vary: value}) for value in values}
        for value, seeds in points.items():
            axes.plot([value] * len(seeds), seeds, ".", color=colour, ms=5)
        means = {value: sum(seeds) / len(seeds) for value, seeds in points.items() if seeds}
        axes.plot(list(means), list(means.values()), color=colour, lw=1, label=label)

    schedule, steps, precision, text = panels
    for axes in (schedule, steps):
        line(axes, "val", "OneCycle to 1e-2", "steps", questions.STEPS, "tab:blue")
        axes.set(xscale="log", xlabel="steps", ylabel="val loss", xticks=questions.STEPS)
        axes.set_xticklabels([f"{n // 1000}k" for n in questions.STEPS])
        axes.minorticks_off()
    line(schedule, "val", "constant 1e-3", "steps", questions.STEPS, "tab:orange", schedule="constant")
    line(steps, "train", "its train loss", "steps", questions.STEPS, "tab:green")
    for name, colour in (("fp32", "tab:blue"), ("bf16", "tab:orange")):
        seconds, val = (questions.of(done, figure, precision=name) for figure in ("seconds", "val"))
        precision.plot(seconds, val, "o", color=colour, label=f"{name}, 10k steps")
    precision.set(xlabel="seconds, one CPU thread", ylabel="val loss")
    line(text, "valid_nats", "10k steps", "megabytes", questions.SIZES, "tab:blue")
    text.set(xscale="log", xlabel="MB of stories", ylabel="nats per character on valid.txt", xticks=questions.SIZES)
    text.set_xticklabels(questions.SIZES)
    text.minorticks_off()
    titles = ("OneCycle or a constant rate", "More steps", "Half precision", "Less text")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    Parser(prog="docs/plots.py", description=__doc__).parse_args(argv)
    draw_classics(ROOT / "docs/classic.png")
    draw_pocket(ROOT / "docs/pocket.png")
    draw_sizes(ROOT / "docs/sizes.png")
    draw_questions(ROOT / "docs/questions.png")
    return 0


if __name__ == "__main__":
    run_command(main)
