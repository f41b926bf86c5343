"""TrainConfig: every setting of a run, checked once. PRESETS: named settings for common runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from model.config import ModelConfig
from train.flags import nearest
from train.text.alphabet import KINDS

CHOICES = {
    "cleaning": ("auto", "story", "verbatim", "tales", "classic"),
    "vocab": KINDS,
    "optimiser": ("adamw", "muon"),
    "schedule": ("constant", "onecycle", "wsd"),
    "precision": ("fp32", "bf16", "fp16"),
    "weights": ("fp16", "fp32"),
    "track": ("none", "tensorboard", "trackio"),
}


def setting(default: Any, about: str) -> Any:
    """A field with the help text that `python -m train --help` shows."""
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a run. An invalid one raises ValueError with the value, the limit and the fix."""

    preset: str = "custom"
    model: ModelConfig = field(default_factory=ModelConfig)
    # text
    data: str | tuple[str, ...] = setting(
        "tinystories", "name of a corpus; or .txt, .jsonl, .csv or .parquet files; or folders of them"
    )
    valid: str | None = setting(None, "file of stories for validation, instead of a part of the data")
    cleaning: str = setting("auto", "how text is cleaned: auto, story, verbatim, tales or classic (the original's way)")
    vocab: str = setting(
        "auto", "characters of the model: text (its own), ascii, or auto: text where ASCII would lose over a hundredth"
    )
    min_count: int = setting(1, "with the vocabulary of a text: drop characters that occur less often")
    grow_vocab: bool = setting(False, "with --init: add the characters of the text that its vocabulary lacks")
    language: str | None = setting(None, "code of the text's language for the card, such as de; default: by its script")
    stories: int | None = setting(None, "train on the first N stories only")
    init: str | None = setting(None, "start from this artifact: its weights, shape and vocabulary")
    replay: str | None = setting(None, "text to train on too, so that a model from --init does not forget it")
    replay_share: float = setting(0.5, "share of the windows that come from --replay")
    teacher: str | None = setting(None, "artifact to distil: half of the loss is the divergence from its predictions")
    # length of the run
    steps: int | None = setting(None, "optimiser steps of the whole run")
    max_minutes: float | None = setting(None, "time limit of the whole run, over all resumptions; the schedule fits in")
    patience: int = setting(0, "with whole windows: stop after N evaluations without a better one, keep the best")
    seed: int = setting(1, "seed of weights, batches and dropout")
    # batch
    batch_size: int = setting(16, "windows in a batch")
    window: int | None = setting(None, "shorter windows at first, in characters, and more of them; default: context")
    opening: float = setting(0.0, "share of the windows that begin where a story does")
    widen: float = setting(0.6, "share of the run after which windows have the length of the context")
    accumulate: int = setting(1, "batches whose gradients are averaged for one step")
    # optimiser
    optimiser: str = setting("muon", "muon (matrices; AdamW for the rest) or adamw (everything)")
    lr: float = setting(0.005, "peak learning rate of AdamW")
    muon_lr: float = setting(0.02, "peak learning rate of Muon")
    weight_decay: float = setting(
        0.0, "weight decay of the matrices, times the learning rate; none for norms and biases"
    )
    beta1: float = setting(0.9, "AdamW's decay of the mean gradient")
    beta2: float = setting(0.95, "AdamW's decay of the mean squared gradient")
    momentum: float = setting(0.95, "Muon's momentum")
    clip: float = setting(0.0, "largest norm of the gradient; 0 does not clip it")
    # schedule
    schedule: str = setting("wsd", "constant, onecycle or wsd (warm-up, stable, decay)")
    warmup: float = setting(0.01, "wsd: share of the run in which the rate rises")
    cooldown: float = setting(0.6, "wsd: share of the run, at its end, in which the rate falls to zero")
    pct_start: float = setting(0.3, "onecycle: share of the run in which the rate rises")
    div_factor: float = setting(100.0, "onecycle: peak rate divided by the first rate")
    final_div_factor: float = setting(100.0, "onecycle: first rate divided by the last rate")
    # arithmetic
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = setting("fp32", "fp32, bf16 or fp16 (with a scaled loss; only on CUDA, bf16 elsewhere)")
    compile: bool | None = setting(
        False, "use torch.compile (pocket and larger presets: on CUDA, and elsewhere in runs of ten minutes or more)"
    )
    graph: bool = setting(True, "on CUDA: capture a step as one graph")
    threads: int | None = setting(None, "CPU threads; default: all cores")
    ema: float = setting(0.0, "decay of a moving average of the weights, which is kept instead of them; 0 for none")
    weights: str = setting("fp16", "precision of the weight file: fp16 or fp32")
    # evaluation
    eval_every: int = setting(1000, "steps between evaluations")
    eval_stories: int = setting(200, "validation stories scored at each evaluation")
    apart: int = setting(0, "evaluate on every N-th training story, held out, not on the validation text; 0: off")
    final_stories: int | None = setting(
        0, "validation stories scored at the end; none: all, 0: as many as a minute allows"
    )
    final_windows: int = setting(0, "also score N random batches of 64 windows at the end, as nanoGPT does")
    eval_windows: int = setting(0, "evaluate on N random batches of training and validation text instead of stories")
    checkpoint_minutes: float = setting(5.0, "minutes between checkpoints")
    track: str = setting("none", "also log to a tracker: none, tensorboard or trackio")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} ({value!r}) must be one of {', '.join(choices)}{nearest(value, choices)}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            hint = nearest(self.device, ("auto", "cpu", "cuda", "mps"))
            raise ValueError(f"device ({self.device!r}) must be auto, cpu, cuda, cuda:N or mps{hint}")
        if self.language is not None and not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*", self.language):
            raise ValueError(f"language ({self.language!r}) must be a code of BCP 47, such as de or zh-Hans")
        for name in ("steps", "stories", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be at least 1")
        for name in ("batch_size", "accumulate", "eval_every", "eval_stories", "min_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1")
        for name in ("lr", "muon_lr", "checkpoint_minutes", "max_minutes", "div_factor", "final_div_factor"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} ({value}) must be a finite number above 0")
        for name in ("weight_decay", "clip", "eval_windows", "final_windows", "patience", "apart", "final_stories"):
            if not 0 <= (getattr(self, name) or 0) < float("inf"):
                raise ValueError(f"{name} ({getattr(self, name)}) must be a finite number, 0 or more")
        for name in ("warmup", "cooldown", "pct_start", "widen", "opening"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be a share from 0 to 1")
        for name in ("beta1", "beta2", "momentum", "ema", "replay_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be from 0 up to, not including, 1")
        if self.warmup + self.cooldown > 1:
            raise ValueError(f"warmup + cooldown ({self.warmup + self.cooldown:g}) must be at most 1, the whole run")
        if self.window is not None and (self.window < 1 or self.model.context % self.window):
            raise ValueError(f"window ({self.window}) must divide the context ({self.model.context})")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed ({self.seed}) must be from 0 to {2**31 - 1}")
        if self.init and self.vocab != "auto":
            raise ValueError(
                f"vocab ({self.vocab}) cannot be set: --init {self.init} determines it; --grow-vocab adds to it"
            )
        if self.grow_vocab and not self.init:
            raise ValueError("--grow-vocab needs --init, the model to add characters to")
        if self.cleaning == "classic" and (self.vocab == "text" or self.grow_vocab):
            flag = "--grow-vocab" if self.grow_vocab else "--vocab text"
            raise ValueError(f"cleaning (classic) keeps ASCII only: give --cleaning story with {flag}")
        fixed = self.vocab == "ascii" or self.cleaning == "classic" or (self.init and not self.grow_vocab)
        if self.min_count > 1 and fixed:
            raise ValueError(
                f"min_count ({self.min_count}) is for the characters of a text: give --vocab text, or --init with "
                "--grow-vocab"
            )
        if self.steps is None and self.max_minutes is None:
            raise ValueError("a run needs an end: give --steps or --max-minutes")


CLASSIC = TrainConfig(
    preset="classic",
    model=ModelConfig(architecture="classic", vocab_size=82, context=32, layers=4, heads=4, width=64),
    cleaning="classic",
    steps=5_000,
    batch_size=16,
    optimiser="adamw",
    lr=1e-3,
    beta2=0.999,
    weight_decay=0.01,
    schedule="constant",
    eval_windows=200,
    weights="fp32",
)
POCKET = TrainConfig(
    preset="pocket",
    model=ModelConfig(context=256, layers=5, heads=4, width=64, hidden=128),
    max_minutes=120,
    batch_size=8,
    window=128,
    lr=0.004,
    muon_lr=0.025,
    momentum=0.9,
    precision="bf16",
    compile=None,
    eval_every=5_000,
)
STORYTELLER = replace(
    POCKET,
    preset="storyteller",
    model=ModelConfig(context=1024, layers=6, heads=4, width=128),
    batch_size=4,
    window=256,
    widen=0.8,
    muon_lr=0.02,
    eval_every=1_000,
)

# Rates and schedule for fine-tuning a model with any preset, and for training from scratch.
TUNING = {"lr": 0.001, "muon_lr": 0.004, "warmup": 0.05, "cooldown": 0.8}
BEGINNING = {name: getattr(STORYTELLER, name) for name in TUNING}
TUNE = replace(
    STORYTELLER,
    preset="tune",
    init="artifacts/storyteller",
    max_minutes=None,
    steps=500,
    eval_every=50,
    patience=3,
    **TUNING,
)

# Different settings of a preset on CUDA, at the same rates. More steps help more than more characters, so a batch is
# only as large as a GPU processes in the time of a small one. Windows of a single size need a single compilation.
ON_CUDA: dict[str, dict[str, Any]] = {
    "pocket": {"batch_size": 64, "window": None, "eval_every": 1_000},
    "storyteller": {"batch_size": 16, "window": None},
    "storyteller-full": {"window": None},
    "tune": {"window": None},
    "panchatantra": {"window": None},
}

PRESETS: dict[str, TrainConfig] = {
    config.preset: config
    for config in (
        replace(
            CLASSIC,
            preset="debug",
            model=ModelConfig(context=64, layers=2, heads=2, width=32),
            cleaning="auto",
            steps=200,
            optimiser="muon",
            lr=0.005,
            schedule="wsd",
            eval_windows=0,
            eval_every=100,
            eval_stories=20,
            final_stories=100,
            weights="fp16",
            weight_decay=0.0,
            beta2=0.95,
        ),
        CLASSIC,
        replace(CLASSIC, preset="classic-onecycle", steps=10_000, lr=1e-2, schedule="onecycle", precision="fp16"),
        POCKET,
        STORYTELLER,
        replace(  # for a GPU: two passes over all of TinyStories
            STORYTELLER,
            preset="storyteller-full",
            model=ModelConfig(context=1024, layers=8, heads=10, width=320),
            batch_size=64,
            max_minutes=None,
            steps=58_000,
        ),
        replace(
            STORYTELLER,
            preset="shakespeare",
            model=ModelConfig(context=256, layers=6, heads=4, width=128),  # --dropout 0.1 halves the speed of a CPU
            data="shakespeare",
            batch_size=8,
            window=None,
            weight_decay=0.1,
            patience=8,
            eval_every=500,
            max_minutes=None,
            steps=7_000,
            final_windows=200,
        ),
        TUNE,
        replace(
            TUNE,
            preset="panchatantra",
            data="panchatantra",
            cleaning="tales",
            replay="tinystories",
            muon_lr=0.006,
            steps=1_400,
            eval_every=100,
        ),
    )
}
