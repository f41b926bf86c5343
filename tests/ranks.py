"""Runs under torchrun, as each of its ranks: what tests/test_distributed.py compares with one process."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import distributed

from train import loop
from train.__main__ import main as command
from train.presets import PRESETS, TrainConfig
from train.text import corpus

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
    "probed": replace(ADAMW, steps=4, eval_every=2, eval_windows=3),
    "dropout": replace(MUON, steps=4, model=replace(MUON.model, dropout=0.1)),
    "overflow": replace(ADAMW, steps=8),
    "clock": replace(MUON, steps=None, max_minutes=0.015),
    "resumed": ADAMW,
}


class Watched(loop.Run):
    """A run that keeps the loss of every step, and what else must or must not be alike on all ranks."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.losses: list[float] = []
        self.reductions: list[int] = []
        self.masks = hashlib.sha256()
        self.network.dropout.register_forward_hook(self.see_mask)

    @torch.compiler.disable
    def see_mask(self, _: object, inputs: object, output: torch.Tensor) -> None:
        if self.network.training:
            self.masks.update((output == 0).numpy().tobytes())

    def train_step(self) -> None:
        before, count = float(self.loss_sum), self.loss_count
        with mock.patch.object(distributed, "all_reduce", wraps=distributed.all_reduce) as all_reduce:
            super().train_step()
        self.reductions.append(all_reduce.call_count)
        self.losses.append((float(self.loss_sum) - before) / (self.loss_count - count))

    def seen(self) -> dict[str, object]:
        weights = b"".join(weight.numpy().tobytes() for weight in self.network.state_dict().values())
        return {
            "losses": self.losses,
            "reductions": self.reductions,
            "val": [line["val"] for line in self.log],
            "updates": self.updates,
            "masks": self.masks.hexdigest(),
            "weights": hashlib.sha256(weights).hexdigest(),
        }


def watch(name: str, text: Path, folder: Path, patch: pytest.MonkeyPatch, **changes: object) -> dict[str, object]:
    """Trains CONFIGS[name], or goes on with it, on as many ranks as there are, and says what this one saw."""
    runs: list[Watched] = []
    patch.setattr(loop, "Run", lambda *arguments: runs.append(Watched(*arguments)) or runs[-1])
    patch.setattr(loop.export, "after_training", lambda *_: "")
    if name == "muon in fp32":
        patch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    if name == "compiled":  # how the graph is made, not what becomes of it, can get into the way of ranks
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    out = folder / name
    loop.train(replace(CONFIGS[name], data=str(text), **changes), out, cache=folder / "cache", resume=True)
    return runs[-1].seen()


def overflowing(rank: int, patch: pytest.MonkeyPatch) -> Callable[[Watched], None]:
    """A step with a GradScaler, as fp16 has it, in which the gradients of rank 1 are infinite the fourth time."""
    scaler, original = torch.amp.GradScaler, Watched.train_step
    patch.setattr(torch.amp, "GradScaler", lambda *_, **__: scaler("cpu", init_scale=8.0))

    def train_step(self: Watched) -> None:
        factor = torch.inf if rank == 1 and self.step == 3 else 1.0
        hook = self.network.embedding.weight.register_hook(lambda grad: grad * factor)
        original(self)
        hook.remove()

    return train_step


def broken(argv: list[str]) -> int:
    """python -m train with a step that fails on rank 1, the sixth time."""
    original = loop.Run.train_step

    def train_step(self: loop.Run) -> None:
        if self.ranks.rank == 1 and self.step == 5:
            raise RuntimeError("the memory of rank 1 is full")
        original(self)

    loop.Run.train_step = train_step
    return command(argv)


def compared(text: Path, folder: Path, *names: str) -> None:
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo")
    built: list[str] = []
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            build = corpus._build
            patch.setattr(corpus, "_build", lambda *args, build=build, name=name: (built.append(name), build(*args)))
            if name == "overflow":
                patch.setattr(Watched, "train_step", overflowing(rank, patch))
            if name == "clock" and rank:  # another epoch, and three times as fast
                patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 3 * time.monotonic() + 1000))
            seen = watch(name, text, folder, patch) | {"built": built}
        (folder / f"{name}.{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "broken":
        sys.exit(broken(sys.argv[2:]))
    compared(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
