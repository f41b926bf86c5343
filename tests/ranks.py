"""Runs on each rank of torchrun. tests/test_distributed.py compares the results with those of one process."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import distributed

from train import loop, muon
from train.__main__ import main as command
from train.export import formats
from train.presets import PRESETS, TrainConfig
from train.run import Run
from train.step import TALLY, Step, StepQueue
from train.text import corpus

TAKE_STEP, ORTHOGONALISE = loop.take_step, muon.orthogonalise

MUON = replace(
    PRESETS["debug"],
    model=replace(PRESETS["debug"].model, context=32),
    steps=50,
    batch_size=8,
    accumulate=2,
    ema=0.9,
    eval_every=25,
    weights="fp32",
)
ADAMW = replace(MUON, optimiser="adamw", schedule="onecycle", clip=1.0)
CONFIGS: dict[str, TrainConfig] = {
    "adamw": replace(ADAMW, window=16, widen=0.5, opening=0.25),
    "muon": MUON,
    "muon in fp32": MUON,
    "compiled": replace(
        ADAMW, model=replace(ADAMW.model, layers=1), steps=6, eval_every=3, compile=True, precision="bf16"
    ),
    "random windows": replace(ADAMW, steps=4, eval_every=2, eval_windows=3),
    "dropout": replace(MUON, steps=4, model=replace(MUON.model, dropout=0.1)),
    "overflow": replace(ADAMW, steps=8),
    "clock": replace(MUON, steps=None, max_minutes=0.015),
    "resumed": ADAMW,
}


class Watch:
    """Records a run: the loss of every step, and other values that must be equal, or differ, between ranks."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.reductions: list[int] = []
        self.masks = hashlib.sha256()

    def new_run(self, *arguments: object) -> Run:
        self.run = Run(*arguments)
        self.run.network.dropout.register_forward_hook(self.see_mask)
        return self.run

    @torch.compiler.disable
    def see_mask(self, _: object, inputs: object, output: torch.Tensor) -> None:
        if self.run.network.training:
            self.masks.update((output == 0).numpy().tobytes())

    def take_step(self, run: Run, queue: StepQueue) -> None:
        with mock.patch.object(distributed, "all_reduce", wraps=distributed.all_reduce) as all_reduce:
            TAKE_STEP(run, queue)
        self.reductions.append(all_reduce.call_count)
        self.losses.append(float(run.step.loss))

    def seen(self) -> dict[str, object]:
        weights = b"".join(weight.numpy().tobytes() for weight in self.run.network.state_dict().values())
        return {
            "losses": self.losses,
            "reductions": self.reductions,
            "val": [line["val"] for line in self.run.log],
            "updates": self.run.step.tally[TALLY.index("updates")].item(),
            "masks": self.masks.hexdigest(),
            "weights": hashlib.sha256(weights).hexdigest(),
        }


def watch(name: str, text: Path, folder: Path, patch: pytest.MonkeyPatch, **changes: object) -> dict[str, object]:
    """Trains or resumes CONFIGS[name] on all ranks. Returns what this rank recorded."""
    watched = Watch()
    patch.setattr(loop, "Run", watched.new_run)
    patch.setattr(loop, "take_step", watched.take_step)
    patch.setattr(formats, "after_training", lambda *_: "")
    if name == "muon in fp32":
        patch.setattr(muon, "orthogonalise", lambda matrices, dtype: ORTHOGONALISE(matrices, torch.float32))
    if name == "compiled":  # only the tracing, not the generated code, can interfere with ranks
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    out = folder / name
    loop.train(replace(CONFIGS[name], data=str(text), **changes), out, cache=folder / "cache", resume=True)
    return watched.seen()


def overflow(rank: int, patch: pytest.MonkeyPatch) -> None:
    """Makes steps run in fp16 as on CUDA, with an infinite gradient on rank 1 at the fourth step."""
    patch.setattr("train.step.precision_of", lambda *_: "fp16")
    patch.setattr("train.step.SCALE", 8.0)
    original = Step.differentiate

    def differentiate(self: Step, *arguments: object) -> None:
        original(self, *arguments)
        if rank == 1 and int(self.number) == 3:
            self.gradient[7] = torch.inf

    patch.setattr(Step, "differentiate", differentiate)


def broken(argv: list[str]) -> int:
    """Runs python -m train with a step that fails on rank 1 at the sixth step."""

    def take_step(run: Run, queue: StepQueue) -> None:
        if run.ranks.rank == 1 and run.steps == 5:
            raise RuntimeError("the memory of rank 1 is full")
        TAKE_STEP(run, queue)

    loop.take_step = take_step
    return command(argv)


def compared(text: Path, folder: Path, *names: str) -> None:
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo")
    built: list[str] = []
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            build = corpus._build
            patch.setattr(corpus, "_build", lambda *args, build=build, name=name: built.append(name) or build(*args))
            if name == "overflow":
                overflow(rank, patch)
            if name == "clock" and rank:  # starts elsewhere, and is three times as fast
                clock = SimpleNamespace(monotonic=lambda: 3 * time.monotonic() + 1000)
                patch.setattr(loop, "time", clock)
                patch.setattr("train.run.time", clock)
            seen = watch(name, text, folder, patch) | {"built": built}
        (folder / f"{name}.{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "broken":
        sys.exit(broken(sys.argv[2:]))
    compared(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
