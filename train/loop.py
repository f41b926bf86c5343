"""The training loop: step, evaluate, checkpoint, stop."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model import Storyteller, artifacts, load
from model.classic import ClassicGPT
from model.gpt import GPT
from model.network import build
from model.vocab import Vocab
from train import checkpoint, report
from train.batches import Batches
from train.device import memory_explained, pick_device
from train.distributed import ALONE, Ranks, joined
from train.evaluate import evaluation, score, sequence
from train.export import formats as export
from train.flags import printable
from train.guard import ROW, Diverged, Guard
from train.interrupts import Interrupted, Stop, stop_signals
from train.lock import Locked, locked
from train.optim import beta1, optimisers, schedule
from train.presets import TrainConfig
from train.progress import Progress, require_tracker
from train.text import corpus
from train.text.dataset_report import dataset_report

UNMEASURED = 1_000_000  # updates that stand for a whole run whose length only the clock knows


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    stop_after: float | None = None,
    command: str = "",
    cache: Path | None = None,
) -> bool:
    """Runs `config` and writes its artifact to `out`; True when the run is finished.

    False: `stop_after` minutes were over, and a checkpoint beside `out` lets `resume` go on. Raises Interrupted after
    SIGINT or SIGTERM, ValueError and its kin (CorpusError, CheckpointError, ArtifactError) for what cannot be run.
    """
    with stop_signals() as stop, joined(config, stop) as ranks, memory_explained(config, ranks.count):
        # what is wrong with the settings is said before gigabytes are fetched, and of the folder before hours are spent
        pick_device(config.device)
        require_tracker(config)
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: choose another --out, or move it away")
        if config.threads:
            torch.set_num_threads(config.threads)
        with alone_at(out) if ranks.leads else nullcontext():
            run = Run(config, prepared(config, ranks, cache), checkpoint_path(out), ranks)
            kept, written = ranks.agree((run.path.exists(), out.exists()))
            if kept and resume:
                if run.restore() and written:
                    ranks.say(f"{out} is finished: nothing to do")
                    return True
            elif kept:
                ranks.say(f"{run.path} of an earlier run will be replaced; --resume would go on from it")
            ranks.say("\n".join(dataset_report(run.text, config)))
            with stop.patiently():
                if not run.until(time.monotonic() + 60 * stop_after if stop_after else math.inf, stop):
                    run.save()
                    if stop.received:
                        raise Interrupted(stop.received)
                    return False
            run.finish(out, command)
            return True


def prepared(config: TrainConfig, ranks: Ranks, cache: Path | None) -> corpus.Corpus:
    """The text of a run, made once by one of the ranks."""
    # The original's corpus validates on its own last tenth; a validation file then serves the final score alone.
    own_split = config.cleaning == "classic"
    vocab = load(config.init).vocab if config.init else None
    prepare = partial(ranks.in_turn, corpus.prepare, cache=cache, progress=ranks.leads)
    text = prepare(
        config.data,
        valid=None if own_split else config.valid,
        cleaning=config.cleaning,
        stories=config.stories,
        vocab=vocab,
    )
    if config.replay:
        text = corpus.replaying(text, prepare(config.replay, vocab=text.vocab, apart=text))
    ranks.require_same(text.report["fingerprint"], "text")
    return text


@contextmanager
def alone_at(out: Path) -> Iterator[None]:
    """Within, no other run may write to `out`. Raises ValueError naming the one that does."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(checkpoint_path(out).with_name("lock")))
        except Locked as error:
            mend = "wait until it ends, stop it, or choose another --out"
            raise ValueError(f"{out} is being trained by {error}: {mend}") from None
        except OSError as error:
            raise ValueError(f"{out} cannot be made ({error.strerror}): choose another --out") from error
        yield


def checkpoint_path(out: Path) -> Path:
    """Where a run that ends in `out` keeps its checkpoint: in a hidden folder beside it, or what it is a link to."""
    out = out.resolve() if out.is_symlink() else out
    return out.parent / f".{out.name}.run" / "checkpoint.safetensors"


class Run:
    """The state of a run, all of it saved by `save` and brought back by `restore`."""

    def __init__(self, config: TrainConfig, text: corpus.Corpus, path: Path, ranks: Ranks = ALONE) -> None:
        self.began = self.saved = time.monotonic()  # a budget of minutes holds the compilation as well
        self.config = config = replace(config, model=replace(config.model, vocab_size=len(text.vocab)))
        self.text, self.path, self.ranks = text, path, ranks
        self.device = pick_device(config.device)
        torch.manual_seed(config.seed)
        self.network = build(config.model).to(self.device)
        if config.init:
            self.network.load_state_dict(load(config.init).network.state_dict())
        ranks.replicate(self.network)
        self.optimisers = optimisers(self.network, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.average = [p.detach().clone() for p in self.network.parameters()] if config.ema else []
        self.best: list[Tensor] = []  # the weights of the best evaluation, where there is patience
        self.best_val: float | None = None
        self.best_step = self.stale = 0
        size = {"context": config.model.context, "device": self.device}
        training, watched = text.train, text.valid
        if config.apart:
            training, watched = keep_apart(text.train, text.vocab, config.apart)
        starts = None if text.vocab.end is None else np.flatnonzero(training == text.vocab.end)
        rows = {"starts": starts, "opening": config.opening, "part": ranks.part}
        rows |= {"replay": text.replay, "replay_share": config.replay_share}
        if "stories" not in text.report["train"]:
            rows["mark"] = text.vocab.end
        self.batches = Batches(training, batch_size=config.batch_size, seed=config.seed, **size, **rows)
        # attention costs less in short windows, and most of a language is learned in them
        self.short = self.batches.shortened(config.window) if config.window else self.batches
        self.probes = {
            name: Batches(part, batch_size=config.batch_size, seed=config.seed + 1, **size)
            for name, part in (("train", training), ("val", watched))
            if config.eval_windows
        }
        self.forward = self.compiled() if config.compile else self.network
        self.teacher = load_teacher(config, text.vocab) if config.teacher else None
        self.taught = self.teaching() if self.teacher else None
        self.watched = stories_in(watched, text.vocab)[: config.eval_stories]
        self.valid = stories_in(text.valid, text.vocab)
        self.step = self.updates = 0  # they part where the GradScaler skips an update
        self.loss_sum = torch.zeros((), device=self.device)
        self.loss_count = 0
        self.guard = Guard(len(text.vocab), self.device)
        self.log: list[dict[str, Any]] = []
        self.recorded = 0.0, 0  # seconds and characters at the last line of the log
        self.finished = False
        self.kept: int | None = None  # step of this run's own checkpoint
        self.seconds_before = 0.0  # of the processes that ran before this one
        self.seconds_told = 0.0  # by the first of several ranks, after its last step
        self.lr = 0.0
        self.commit = report.commit()  # the code that runs is that of the start, whatever is checked out later

    def compiled(self) -> Any:
        """The network through torch.compile; as it is, with a line that says so, where no compiler works."""
        from torch._dynamo.exc import TorchDynamoException  # seconds that an eager run need not spend

        # What was compiled before would be kept as pickles, in a folder that others may be able to write to.
        torch.compiler.config.force_disable_caches = True
        warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
        forward = torch.compile(self.network, dynamic=False)
        cuda = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda):  # a run has the same dropout with and without
                for batches in dict.fromkeys((self.short, self.batches)):
                    self.loss(forward, *batches.batch(0)).backward()
        except TorchDynamoException as error:  # no C++ compiler, or one that cannot work in this folder
            reason = type(error).__name__
            if self.ranks.local == 0:
                mend = "install a C++ compiler, or give --no-compile"
                print(f"not compiled ({reason}), so slower: {mend}", file=sys.stderr)
            forward = self.network
        self.network.zero_grad(set_to_none=True)
        return forward

    def teaching(self) -> Any:
        """The teacher's network, ready to be asked: ids (B, T) -> logits (B, T, V)."""
        network = self.teacher.network.to(self.device)
        return network if self.forward is self.network else torch.compile(network, dynamic=False)

    @property
    def precision(self) -> str:
        """That of the arithmetic: fp16 needs the GradScaler, which is CUDA's; elsewhere bf16 stands in for it."""
        return "bf16" if self.config.precision == "fp16" and self.device.type != "cuda" else self.config.precision

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, over all its resumptions. It is one clock that several ranks go by."""
        if self.ranks.count > 1:
            return self.seconds_told
        return self.seconds_before + time.monotonic() - self.began

    @property
    def characters(self) -> int:
        return self.step * self.config.accumulate * self.config.batch_size * self.config.model.context

    def position(self) -> tuple[float, int]:
        """Where the schedule stands, and its length, in updates; a budget of minutes stretches it over the clock."""
        total = self.config.steps or UNMEASURED
        if self.config.max_minutes is None:
            return self.updates, total
        by_clock = self.seconds / (60 * self.config.max_minutes) * total
        return (max(self.updates, by_clock) if self.config.steps else by_clock), total

    def source(self) -> Batches:
        """The batches of this part of the run."""
        position, total = self.position()
        return self.short if not self.over() and position < self.config.widen * total else self.batches

    def over(self) -> bool:
        if self.config.steps and self.step >= self.config.steps:
            return True
        if self.config.patience and self.stale >= self.config.patience:
            return True
        return self.config.max_minutes is not None and self.seconds >= 60 * self.config.max_minutes

    def until(self, deadline: float, stop: Stop) -> bool:
        """Trains to the end of the run (True), to a signal or to `deadline`, in time.monotonic (False)."""
        config = self.config
        with Progress(config, self) as progress:
            halt, _ = self.pulse(deadline, stop)
            while not self.over():
                if halt:
                    return False
                due = not self.log or self.log[-1]["step"] != self.step
                if self.step % config.eval_every == 0 and due:
                    self.record(progress)
                    if self.over():  # out of patience
                        break
                self.train_step()
                progress.update()
                halt, unsaved = self.pulse(deadline, stop)
                if unsaved:
                    self.save()
                    self.saved = time.monotonic()
            if not self.log or self.log[-1]["step"] != self.step:
                self.record(progress)
        return True

    def pulse(self, deadline: float, stop: Stop) -> tuple[bool, bool]:
        """Whether to stop here, and whether a checkpoint is due, by what clock and signals say to all ranks."""
        now = time.monotonic()
        late, unsaved = now >= deadline, now - self.saved >= 60 * self.config.checkpoint_minutes
        told = self.ranks.pulse(self.seconds_before + now - self.began, stop.received or 0, late, unsaved)
        self.seconds_told, number, (late, unsaved) = told
        if number:
            stop.received = number
        return bool(number) or late, unsaved

    def train_step(self) -> None:
        """One step: gradients of `accumulate` batches, clipped, and an update at the schedule's rate."""
        config = self.config
        position = self.position()
        share = schedule(config, *position)
        self.lr = share * config.lr
        batches = self.source()
        for optimiser in self.optimisers:
            changes: dict[str, Any] = {"lr": share * config.muon_lr}
            if isinstance(optimiser, torch.optim.AdamW):
                changes = {"lr": self.lr, "betas": (beta1(config, *position), config.beta2)}
            for group in optimiser.param_groups:
                group |= changes
        self.ranks.seed(config.seed, self.step)
        losses = []
        for micro in range(config.accumulate):
            inputs, targets = batches.batch(self.step * config.accumulate + micro)
            loss, objective = self.objective(inputs, targets)
            self.scaler.scale(objective / config.accumulate).backward()
            losses.append(loss.detach().float())
        self.ranks.average_gradients(self.network, losses)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        usable = self.guard.usable(losses, gradients)
        if not self.scaler.is_enabled():  # it leaves such steps out by itself, and learns its scale from them
            for gradient in gradients:
                gradient.masked_fill_(~usable, 0)
        for loss in losses:
            self.loss_sum += torch.where(usable, loss, 0)
            self.loss_count += 1
        if config.clip:
            for optimiser in self.optimisers:
                self.scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        scale = self.scaler.get_scale()
        for optimiser in self.optimisers:
            self.scaler.step(optimiser)
            optimiser.zero_grad(set_to_none=True)
        self.scaler.update()
        # A scale that fell says that gradients overflowed and the update was skipped: the schedule waits as well.
        self.updates += self.scaler.get_scale() >= scale
        self.step += 1
        if self.average:
            decay = min(config.ema, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.network.parameters()], 1 - decay)
        if self.step % ROW == 0 and (row := int(self.guard.row)) >= ROW:
            raise self.diverged(f"{row} steps in a row up to step {self.step} had no usable loss")

    def loss(self, forward: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per character of targets (B, T) given inputs (B, T), in the run's precision."""
        with self.autocast():
            logits = forward(inputs)  # (B, T, V)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def objective(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and what a step makes smaller: the loss itself or, of a pupil, the mean of it and of the
        divergence (in nats per character) of its predictions from its teacher's."""
        if self.taught is None:
            loss = self.loss(self.forward, inputs, targets)
            return loss, loss
        with self.autocast():
            with torch.no_grad():
                expected = self.taught(inputs).log_softmax(-1).flatten(0, 1)  # (B * T, V)
            logits = self.forward(inputs).flatten(0, 1)
            loss = F.cross_entropy(logits, targets.flatten())
            apart = F.kl_div(logits.log_softmax(-1), expected, reduction="batchmean", log_target=True)
        return loss, (loss + apart) / 2

    def autocast(self) -> torch.autocast:
        """The run's precision, for the arithmetic within."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")

    def mean_loss(self) -> float:
        """Of the steps since the last evaluation that had a usable loss."""
        return float(self.loss_sum / (self.loss_count - self.guard.missed * self.config.accumulate))

    @torch.inference_mode()
    def first_loss(self) -> float:
        """Of the first batch, before the first step."""
        self.network.eval()
        loss = self.loss(self.network, *self.source().batch(0)).double()
        self.network.train()
        self.ranks.sum_(loss)
        return float(loss) / self.ranks.count

    def record(self, progress: Progress) -> None:
        """Evaluates, adds a line to the log, and stops a run whose loss is no number."""
        source = self.source()
        missed = int(self.guard.missed)
        with self.holding(self.average):
            if self.probes:
                windows = self.config.eval_windows
                train_nats, val_nats = (self.probe(self.probes[name], windows) for name in ("train", "val"))
            else:
                # a network that has seen short windows only is lost beyond them
                nats, symbols = self.ranks.dealt(score)(self.network, self.watched, context=source.context)
                val_nats = float(nats.sum() / symbols.sum())
                train_nats = self.mean_loss() if self.loss_count else self.first_loss()
        if missed >= ROW and 2 * missed > (steps := self.loss_count // self.config.accumulate):
            raise self.diverged(f"{missed} of the {steps} steps up to step {self.step} had no usable loss")
        if missed:
            reason = f"no finite gradients, or a loss above {self.guard.limit:.0f} nats per character"
            self.ranks.say(f"steps left out since the last evaluation: {missed} ({reason})")
        self.guard.missed.zero_()
        self.loss_sum.zero_()
        self.loss_count = 0
        self.check_finite(train_nats + val_nats)
        if self.config.patience and source is self.batches:  # short windows make another figure, and no finished model
            self.remember(val_nats)
        next_lr = self.lr if self.over() else schedule(self.config, *self.position()) * self.config.lr
        seconds, characters = self.seconds, self.characters
        speed = (characters - self.recorded[1]) / max(seconds - self.recorded[0], 1e-9)
        self.recorded = seconds, characters
        line = {
            "step": self.step,
            "train": round(train_nats, 4),
            "val": round(val_nats, 4),
            "lr": round(next_lr, 8),
            "chars_per_second": round(speed),
            "seconds": round(seconds, 1),
            "characters": characters,
        }
        self.log.append(line)
        progress.line(line)

    def remember(self, val_nats: float) -> None:
        """Keeps the weights if no evaluation was better, and counts the evaluations since the best one."""
        self.stale += 1
        if self.best_val is None or val_nats < self.best_val:
            self.best_val, self.best_step, self.stale = val_nats, self.step, 0
            self.best = [p.detach().clone() for p in self.average or self.network.parameters()]

    def check_finite(self, loss: float) -> None:
        """Raises Diverged for a loss that is NaN or infinite."""
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is no finite number at step {self.step}")

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

    @torch.inference_mode()
    def probe(self, batches: Batches, count: int, network: GPT | ClassicGPT | None = None) -> float:
        """The original's rule: mean nats per character over random batches, the same ones each time."""
        network = network or self.network
        network.eval()
        losses = torch.zeros(count, device=self.device)
        for step in range(self.ranks.rank, count, self.ranks.count):
            losses[step] = self.loss(network, *batches.batch(step))
        network.train()
        self.ranks.sum_(losses)
        return float(losses.mean())

    @contextmanager
    def holding(self, weights: list[Tensor]) -> Iterator[None]:
        """Puts weights, an average or those of the best step, into the network for a while; none leave it as it is."""
        parameters = [p.detach() for p in self.network.parameters()]
        trained = [p.clone() for p in parameters] if weights else []
        if weights:
            torch._foreach_copy_(parameters, weights)
        yield
        if weights:
            torch._foreach_copy_(parameters, trained)

    def save(self) -> None:
        """Writes the checkpoint, unless the weights are spoilt: the one before is then worth more."""
        loss = self.probe(self.source(), 1)
        if not loss < self.guard.limit:  # or NaN
            raise self.diverged(f"the weights of step {self.step} have a loss of {loss:.4g} nats per character")
        if self.ranks.leads:
            checkpoint.save(self, self.path)
        self.kept = self.step
        self.ranks.barrier()  # a rank that ended before would have torchrun end the one that writes

    def restore(self) -> bool:
        """Goes back to the checkpoint; True if it is of a finished run. Raises CheckpointError if it is of another."""
        checkpoint.restore(self, self.path)
        self.kept = self.step
        self.recorded = (self.log[-1]["seconds"], self.log[-1]["characters"]) if self.log else (0.0, 0)
        return self.finished

    def finish(self, out: Path, command: str) -> None:
        """Scores the weights as the file will hold them, writes the artifact, and marks the run as finished."""
        seconds = self.seconds
        self.save()  # what follows can fail for want of space; the training need not be done again
        dtype = torch.float16 if self.config.weights == "fp16" else torch.float32
        with self.holding(self.best or self.average):
            weights = {n: p.detach().to(dtype, copy=True).cpu() for n, p in self.network.state_dict().items()}
        if not all(w.isfinite().all() for w in weights.values()):
            raise self.diverged(f"the weights of step {self.step} are too large for {self.config.weights}")
        network = build(self.config.model).to(self.device)
        network.load_state_dict(weights)
        sequences, data = self.valid, held_out_name(self.text, self.config.valid)
        if self.config.cleaning == "classic" and self.config.valid:
            sequences = [sequence(self.text.vocab, story) for story in corpus.read_stories(self.config.valid)]
            data = Path(self.config.valid).name
        figures = evaluation(network, sequences[: self.config.final_stories], data, self.ranks.dealt)
        besides = self.comparisons(network)
        if not self.ranks.leads:
            self.save()  # waits for the one that writes
            return
        metrics = artifacts.spelled(report.metrics(self, out.name, figures, round(seconds, 1), command) | besides)
        artifacts.save(
            out,
            config=self.config.model,
            vocab=self.text.vocab,
            weights={name: tensor.numpy() for name, tensor in weights.items()},
            metrics=metrics,
            log=self.log,
            card=report.card(metrics, network.cpu().eval(), self.text.vocab),
        )
        exported = export.after_training(out, sequences)
        self.finished = True  # not before the graph is there: what a kill leaves out, a resumed run makes up for
        self.save()
        line = (
            f"{out}: {figures['nats_per_character']:.4f} nats per character on {report.scored(figures)}, "
            f"{metrics['parameters']:,} parameters, {self.step:,} steps in {seconds:.0f} s"
        )
        print(printable(line))
        print(artifacts.spelled(exported), file=sys.stderr)

    def comparisons(self, network: GPT | ClassicGPT) -> dict[str, Any]:
        """What the settings ask to be measured besides: by nanoGPT's rule, and the model that this one started from."""
        found: dict[str, Any] = {}
        if count := self.config.final_windows:
            size = {"context": self.config.model.context, "batch_size": 64, "device": self.device}
            val = self.probe(Batches(self.text.valid, seed=self.config.seed + 1, **size), count, network)
            found["windows"] = {"batches": count, "batch_size": 64, "nats_per_character": round(val, 5)}
        if self.config.init:
            base = load(self.config.init)
            figures = evaluation(base.network.to(self.device), self.valid[: self.config.final_stories], "")
            found["base"] = report.origin(base) | {"nats_per_character": figures["nats_per_character"]}
        if self.teacher:
            found["teacher"] = report.origin(self.teacher)
        return found


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


def stories_in(stream: np.ndarray, vocab: Vocab) -> list[np.ndarray]:
    """The sequences to score in an encoded text: from end mark to end mark, both included; without marks all of it."""
    if vocab.end is None:
        return [np.concatenate(([vocab.start], stream))]
    marks = np.flatnonzero(stream == vocab.end)
    return [stream[a : b + 1] for a, b in pairwise(marks)]


def keep_apart(stream: np.ndarray, vocab: Vocab, every: int) -> tuple[np.ndarray, np.ndarray]:
    """A stream of stories in two: without every so many-th story, and those alone, each from end mark to end mark."""
    marks = np.flatnonzero(stream == vocab.end) if vocab.end is not None else np.empty(0, int)
    if len(marks) - 1 < every:
        raise ValueError(f"apart ({every}) must be at most {max(0, len(marks) - 1)}, the number of training stories")
    number = np.cumsum(stream == vocab.end)  # of the story that a symbol belongs to, its opening mark included
    apart = (number % every == 0) & (number < len(marks))
    closing = stream[-1:]
    return stream[~apart], np.concatenate([stream[apart], closing])


def held_out_name(text: corpus.Corpus, given: str | None) -> str:
    """What the validation text of a corpus is called on a card; `given` is the one that the user named."""
    files = [source["file"] for source in text.report["validation_sources"]]
    if "tales" in text.report and not given:
        return f"{text.name} (the held-out tales)"
    return ", ".join(files) or f"{text.name} (the part held out)"
