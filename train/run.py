"""The state of a run: what a checkpoint holds, and how far the run is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import process_time
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

PAUSE, UNUSUAL = 5.0, 10  # work that took longer than so many seconds, and than so many times the usual, had a pause
UNMEASURED = 1_000_000  # updates: the nominal length of a run that only --max-minutes limits


class Diverged(ValueError):
    """The loss is not a finite number, or far too large."""


class Clock:
    """Counts the seconds of a run, without those in which its process stood still: a closed laptop, a stopped job.

    A run tells the clock when it has ended a piece of work. It held a pause if it took far longer than its kind usually
    takes, or, as the first of its kind, than it computed. Then only its usual time is counted. If the next one takes as
    long, that is the pace from then on. Nothing is counted before `start`, but what is usual is learned.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.running = False
        self.skip()
        self.usual: dict[str, float] = {}  # seconds of each kind of work: a moving average
        self.paused: set[str] = set()  # the kinds of work of which the latest piece held a pause

    def start(self) -> None:
        """Starts to count, at the first step."""
        if not self.running:
            self.running = True
            self.skip()

    def skip(self) -> None:
        """Counts nothing of the time since the latest piece of work, which was no training."""
        self.latest, self.cpu = time.monotonic(), process_time()  # when the latest piece of work ended

    def end_of(self, work: str) -> tuple[float, float]:
        """Ends a piece of work of that kind. Returns the seconds that it took and those of a pause within it."""
        latest, cpu = self.latest, self.cpu
        self.skip()
        took, known, pause = self.latest - latest, self.usual.get(work), 0.0
        usual = self.cpu - cpu if known is None else known  # a process that stands still computes nothing
        if took > max(PAUSE, UNUSUAL * usual) and work not in self.paused:
            self.paused.add(work)
            took, pause = usual, took - usual
        elif work in self.paused:
            self.paused.remove(work)
            usual = took if took > max(PAUSE, UNUSUAL * usual) else usual
        self.usual[work] = took if known is None else 0.9 * usual + 0.1 * took
        self.seconds += took * self.running
        return took, pause


class Run:
    """The state of a run between steps. `step` holds the tensors on the device; everything else is here."""

    def __init__(self, config: TrainConfig, text: Corpus, path: Path, ranks: Ranks = ALONE) -> None:
        self.config = config = replace(config, model=replace(config.model, vocab_size=len(text.vocab)))
        self.text, self.path, self.ranks = text, path, ranks
        self.device = pick_device(config.device)
        torch.manual_seed(config.seed)
        self.network = build(config.model).to(self.device)
        self.base = load(config.init) if config.init else None  # kept: its folder may change during the run
        if self.base:
            self.network.load_state_dict(grown(self.base.network.state_dict(), len(text.vocab)))
        self.teacher = load_teacher(config, text.vocab) if config.teacher else None
        taught = self.teacher.network.to(self.device) if self.teacher else None
        self.step = Step(self.network, config, self.device, taught, ranks)
        ranks.average(self.step.weights)  # the same on all ranks, even if machines differ in what a seed gives
        training, validation = [text.train], text.valid
        if config.apart:
            training, validation = split_every_nth(text.train, text.vocab, config.apart)
        self.batches = make_batches(config, text, training, self.device, ranks)
        # attention is cheaper in short windows, and they are enough to learn most of a language
        self.short = self.batches.shortened(config.window) if config.window else self.batches
        self.eval_sequences = stories_in(validation, text.vocab, config.eval_stories)
        self.eval_batches: list[Batches] = []
        if config.eval_windows:
            size = {"context": config.model.context, "batch_size": config.batch_size, "device": self.device}
            self.eval_batches = [
                self.batches.reseeded(config.seed + 1),
                Batches(validation, seed=config.seed + 1, use="to validate on", **size),
            ]
        self.steps = self.updates = 0  # they differ after an overflow in fp16, which is a step without an update
        self.best: Tensor | None = None  # the weights of the best evaluation, with early stopping (--patience)
        self.best_val: float | None = None
        self.best_step = self.stale = 0
        self.compiled: bool | None = None  # decided at the first start, so that a resumed run does the same
        self.lr = 0.0
        self.log: list[dict[str, Any]] = []
        self.evaluating = 0.0  # seconds
        self.last_logged = 0.0, 0  # seconds and characters at the latest line of the log
        self.finished = False
        self.checkpoint_step: int | None = None  # the step of this run's checkpoint
        self.clock = Clock()  # of this process
        self.seconds_before = 0.0  # of the earlier processes of this run
        self.shared_seconds = 0.0  # with several ranks: the clock of rank 0 after the latest step
        self.commit: str | None = None  # the commit of the code that runs

    @property
    def seconds_here(self) -> float:
        """Seconds of all processes of this rank by its own clock, up to the latest piece of work."""
        return self.seconds_before + self.clock.seconds

    def end_of(self, work: str) -> float:
        """Ends a piece of work: a step, an evaluation, a checkpoint. Returns its seconds, and says if it was paused."""
        took, pause = self.clock.end_of(work)
        if pause:
            self.ranks.say(f"a pause of {pause:,.0f} s during {work} is not counted as training time")
        return took

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, over all its resumptions. Several ranks use one clock."""
        return self.shared_seconds if self.ranks.count > 1 else self.seconds_here

    @property
    def characters(self) -> int:
        return self.steps * self.config.accumulate * self.config.batch_size * self.config.model.context

    def position(self) -> tuple[float, int]:
        """The position in the schedule and its length, in updates. With --max-minutes, the clock sets the position."""
        total = self.config.steps or UNMEASURED
        if self.config.max_minutes is None:
            return self.updates, total
        by_clock = self.seconds / (60 * self.config.max_minutes) * total
        return (max(self.updates, by_clock) if self.config.steps else by_clock), total

    def rates(self) -> Rates:
        """The rates of the next step."""
        return rates(self.config, *self.position())

    def source(self) -> Batches:
        """The batches for this part of the run: short windows at first, then whole ones."""
        position, total = self.position()
        return self.short if not self.over() and position < self.config.widen * total else self.batches

    def over(self) -> bool:
        config = self.config
        done = (config.steps and self.steps >= config.steps) or (config.patience and self.stale >= config.patience)
        return bool(done) or (config.max_minutes is not None and self.seconds >= 60 * config.max_minutes)

    @contextmanager
    def with_weights(self, weights: Tensor | None) -> Iterator[None]:
        """Uses other weights inside, an average or those of the best step. None changes nothing."""
        if weights is None:
            yield
            return
        trained = self.step.weights.clone()
        self.step.weights.copy_(weights)
        yield
        self.step.weights.copy_(trained)

    def diverged(self, what: str) -> Diverged:
        """The error for a run that diverged. It names the fixes and the checkpoint that is kept."""
        config, checkpoint = self.config, ""
        rates = f"lower --lr ({config.lr:g})" + (
            f" and --muon-lr ({config.muon_lr:g})" if config.optimiser == "muon" else ""
        )
        clip = "" if config.clip else ", or set --clip 1"
        if self.checkpoint_step is not None:
            go_on = "" if config.clip else ": go on from it with --resume --clip 1"
            checkpoint = f"; {self.path} is of step {self.checkpoint_step} and is kept{go_on}"
        return Diverged(f"{what}: {rates}{clip}{checkpoint}")


def make_batches(
    config: TrainConfig, text: Corpus, training: list[np.ndarray], device: torch.device, ranks: Ranks
) -> Batches:
    """The batches of a run, in windows of the whole context."""
    return Batches(
        training,
        context=config.model.context,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        story_start=text.vocab.end,
        opening=config.opening,
        replay=text.replay,
        replay_share=config.replay_share,
        mark=None if "stories" in text.report["train"] else text.vocab.end,
        part=(ranks.rank, ranks.count),
    )


def grown(weights: dict[str, Tensor], symbols: int) -> dict[str, Tensor]:
    """The weights of a model with more symbols: each new one begins as the mean of the embedding, as its head does."""

    def rows(weight: Tensor) -> Tensor:
        new = weight.mean(0, keepdim=True).expand(symbols - len(weight), *weight.shape[1:])
        return torch.cat([weight, new])

    return {
        name: rows(weight) if name.split(".")[0] in ("embedding", "head") else weight
        for name, weight in weights.items()
    }


def load_teacher(config: TrainConfig, vocab: Vocab) -> Storyteller:
    """Loads the teacher. Raises ValueError if its vocabulary differs, or if its context is too short."""
    teacher = load(config.teacher)
    if teacher.vocab != vocab:
        raise ValueError(
            f"teacher ({config.teacher}) has another vocabulary than this text: give one trained on such text"
        )
    if teacher.config.context < config.model.context:
        raise ValueError(
            f"teacher ({config.teacher}) has a context of {teacher.config.context}, which must be at least that of the "
            f"student ({config.model.context}): lower --context"
        )
    return teacher
