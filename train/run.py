"""The state of a run: what a checkpoint holds, and where the run stands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import Storyteller, load
from model.network import build
from model.vocab import Vocab
from train.batches import Batches
from train.device import pick_device
from train.distributed import ALONE, Ranks
from train.optim import Rates, rates
from train.presets import TrainConfig
from train.step import Step
from train.text.corpus import Corpus
from train.text.encoded import split_every_nth, stories_in

UNMEASURED = 1_000_000  # updates that stand for a whole run whose length only the clock knows


class Diverged(ValueError):
    """The loss is no longer a finite number, or far too large."""


class Run:
    """A run between its steps. `step` holds what the device has of it, the rest stands here."""

    def __init__(self, config: TrainConfig, text: Corpus, path: Path, ranks: Ranks = ALONE) -> None:
        self.config = config = replace(config, model=replace(config.model, vocab_size=len(text.vocab)))
        self.text, self.path, self.ranks = text, path, ranks
        self.device = pick_device(config.device)
        torch.manual_seed(config.seed)
        self.network = build(config.model).to(self.device)
        if config.init:
            self.network.load_state_dict(load(config.init).network.state_dict())
        self.teacher = load_teacher(config, text.vocab) if config.teacher else None
        taught = self.teacher.network.to(self.device) if self.teacher else None
        self.step = Step(self.network, config, self.device, taught, ranks)
        ranks.average(self.step.weights)  # the same everywhere, whatever machines make of a seed
        training, watched = [text.train], text.valid
        if config.apart:
            training, watched = split_every_nth(text.train, text.vocab, config.apart)
        self.batches = batches_of(config, text, training, self.device, ranks)
        # attention costs less in short windows, and most of a language is learned in them
        self.short = self.batches.shortened(config.window) if config.window else self.batches
        self.watched = stories_in(watched, text.vocab, config.eval_stories)
        self.probes: list[Batches] = []
        if config.eval_windows:
            size = {"context": config.model.context, "batch_size": config.batch_size, "device": self.device}
            self.probes = [self.batches.reseeded(config.seed + 1), Batches(watched, seed=config.seed + 1, **size)]
        self.steps = self.updates = 0  # they part where fp16 overflows, and the update is left out
        self.best: Tensor | None = None  # the weights of the best evaluation, where there is patience
        self.best_val: float | None = None
        self.best_step = self.stale = 0
        self.lr = 0.0
        self.log: list[dict[str, Any]] = []
        self.evaluating = 0.0  # seconds
        self.recorded = 0.0, 0  # seconds and characters at the last line of the log
        self.finished = False
        self.kept: int | None = None  # step of this run's own checkpoint
        self.began: float | None = None  # the first step of this process, in time.monotonic
        self.seconds_before = 0.0  # of the processes that ran before this one
        self.seconds_told = 0.0  # by the first of several ranks, after its last step
        self.commit: str | None = None  # of the code that runs

    @property
    def seconds_here(self) -> float:
        """Seconds of all processes of this rank, on its own clock, which starts with the first step."""
        return self.seconds_before + (time.monotonic() - self.began if self.began is not None else 0.0)

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, over all its resumptions. It is one clock that several ranks go by."""
        return self.seconds_told if self.ranks.count > 1 else self.seconds_here

    @property
    def characters(self) -> int:
        return self.steps * self.config.accumulate * self.config.batch_size * self.config.model.context

    def position(self) -> tuple[float, int]:
        """Where the schedule stands, and its length, in updates; a budget of minutes stretches it over the clock."""
        total = self.config.steps or UNMEASURED
        if self.config.max_minutes is None:
            return self.updates, total
        by_clock = self.seconds / (60 * self.config.max_minutes) * total
        return (max(self.updates, by_clock) if self.config.steps else by_clock), total

    def rates(self) -> Rates:
        """Those of the next step."""
        return rates(self.config, *self.position())

    def source(self) -> Batches:
        """The batches of this part of the run."""
        position, total = self.position()
        return self.short if not self.over() and position < self.config.widen * total else self.batches

    def over(self) -> bool:
        config = self.config
        done = (config.steps and self.steps >= config.steps) or (config.patience and self.stale >= config.patience)
        return bool(done) or (config.max_minutes is not None and self.seconds >= 60 * config.max_minutes)

    @contextmanager
    def holding(self, weights: Tensor | None) -> Iterator[None]:
        """Puts weights, an average or those of the best step, into the network for a while; None leaves it as it is."""
        if weights is None:
            yield
            return
        trained = self.step.weights.clone()
        self.step.weights.copy_(weights)
        yield
        self.step.weights.copy_(trained)

    def diverged(self, what: str) -> Diverged:
        """The error about a run that went wrong, with its mends and what is left of it."""
        config, kept = self.config, ""
        rates = f"lower --lr ({config.lr:g})" + (
            f" and --muon-lr ({config.muon_lr:g})" if config.optimiser == "muon" else ""
        )
        clip = "" if config.clip else ", or set --clip 1"
        if self.kept is not None:
            go_on = "" if config.clip else ": --resume --clip 1 goes on from it"
            kept = f"; {self.path} is of step {self.kept} and stays{go_on}"
        return Diverged(f"{what}: {rates}{clip}{kept}")


def batches_of(
    config: TrainConfig, text: Corpus, training: list[np.ndarray], device: torch.device, ranks: Ranks
) -> Batches:
    """The source of batches of a run, in windows of the whole context."""
    return Batches(
        training,
        context=config.model.context,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        opens=text.vocab.end,
        opening=config.opening,
        replay=text.replay,
        replay_share=config.replay_share,
        mark=None if "stories" in text.report["train"] else text.vocab.end,
        part=(ranks.rank, ranks.count),
    )


def load_teacher(config: TrainConfig, vocab: Vocab) -> Storyteller:
    """The artifact that a run learns from. Raises ValueError if it reads other characters, or fewer at once."""
    teacher = load(config.teacher)
    if teacher.vocab != vocab:
        raise ValueError(f"teacher ({config.teacher}) has another vocabulary than this text: train one on such text")
    if teacher.config.context < config.model.context:
        raise ValueError(
            f"teacher ({config.teacher}) sees {teacher.config.context} characters at once, the network to be trained "
            f"{config.model.context}: lower --context"
        )
    return teacher
