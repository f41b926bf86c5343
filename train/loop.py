"""Training: prepare, step, evaluate, save, stop. Read downwards."""

from __future__ import annotations

import gc
import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from model import load
from train import checkpoint, report
from train.batches import Batches
from train.device import memory_explained, set_up
from train.distributed import Ranks, joined
from train.evaluate import score
from train.finish import finish
from train.interrupts import Interrupted, Stop, stop_signals
from train.lock import alone_at
from train.presets import TrainConfig
from train.progress import Progress, require_tracker
from train.run import Run
from train.step import TALLY, Ahead
from train.text import corpus
from train.text.dataset_report import dataset_report

ROW = 20  # steps without a usable loss, one after the other, that end a run
EVALUATING = 0.05  # the share of a budget of minutes that evaluations may take


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
        device = set_up(config)
        require_tracker(config)
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: choose another --out, or move it away")
        with alone_at(out, checkpoint_path(out).with_name("lock")) if ranks.leads else nullcontext():
            run = Run(config, prepared(config, ranks, cache), checkpoint_path(out), ranks)
            if device.type == "cuda" and run.step.scaled and config.precision == "bf16":
                ranks.say("this GPU has no bfloat16: float16 takes its place")
            run.commit = report.commit()  # the code that runs is that of the start, whatever is checked out later
            kept, written = ranks.agree((run.path.exists(), out.exists()))
            if kept and resume:
                checkpoint.restore(run, run.path)
                if run.finished and written:
                    ranks.say(f"{out} is finished: nothing to do")
                    return True
            elif kept:
                ranks.say(f"{run.path} of an earlier run will be replaced; --resume would go on from it")
            ranks.say("\n".join(dataset_report(run.text, config)))
            with stop.patiently():
                if not until(run, 60 * stop_after if stop_after else math.inf, stop):
                    save(run)
                    if stop.received:
                        raise Interrupted(stop.received)
                    return False
            save(run)  # what follows can fail for want of space; the training need not be done again
            finish(run, out, command)
            save(run)
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
        text = corpus.with_replay(text, prepare(config.replay, vocab=text.vocab, exclude=text))
    ranks.require_same(text.report["fingerprint"], "text")
    return text


def checkpoint_path(out: Path) -> Path:
    """Where a run that ends in `out` keeps its checkpoint: in a hidden folder beside it, or what it is a link to."""
    out = out.resolve() if out.is_symlink() else out
    return out.parent / f".{out.name}.run" / "checkpoint.safetensors"


def until(run: Run, seconds: float, stop: Stop) -> bool:
    """Trains to the end of the run (True), to a signal, or for so many seconds (False)."""
    config = run.config
    if config.compile and not run.over():
        compile_step(run)
    ahead = Ahead(run.step)
    saved, deadline = time.monotonic(), time.monotonic() + seconds
    with Progress(config, run.path.parent, run.ranks.leads, run.steps) as progress:
        halt, _, affordable = heartbeat(run, deadline, saved, stop)
        while not run.over():
            if halt:
                return False
            if run.steps % config.eval_every == 0 and affordable and not recorded(run):
                record(run, ahead, progress)
                if run.over():  # out of patience
                    break
            take_step(run, ahead)
            progress.update(run, ahead.seen["loss_sum"] / max(ahead.seen["counted"], 1))
            halt, unsaved, affordable = heartbeat(run, deadline, saved, stop)
            if unsaved:
                save(run)
                saved = time.monotonic()
        if not recorded(run):
            record(run, ahead, progress)
    return True


def compile_step(run: Run) -> None:
    run.ranks.say("compiling: this takes a minute or more, and counts against no budget of time")
    sources = list(dict.fromkeys((run.short, run.batches)))
    if reason := run.step.objective.compile(sources, run.step.parameters.list):
        run.ranks.say(f"not compiled ({reason}), so slower: install a C++ compiler, or give --no-compile")


def take_step(run: Run, ahead: Ahead) -> None:
    """One step at the schedule's rates. Raises Diverged once ROW steps in a row had no usable loss."""
    seen = ahead.wait()
    if seen["row"] >= ROW:
        raise run.diverged(f"{seen['row']:.0f} steps in a row up to step {run.steps} had no usable loss")
    first = run.began is None
    if first:
        run.began = time.monotonic()
    # A step whose gradient overflowed in fp16 was no update: the schedule waits as well.
    run.updates = int(seen["updates"]) if run.step.scaled else run.steps
    rates = run.rates()
    run.lr = rates.lr
    run.ranks.seed(run.config.seed, run.steps)
    ahead.go(run.source(), rates)
    run.steps += 1
    if first:
        gc.freeze()  # what is there by now stays to the end


def heartbeat(run: Run, deadline: float, saved: float, stop: Stop) -> tuple[bool, bool, bool]:
    """Whether to stop here, whether a checkpoint is due, and whether an evaluation fits into its share of a budget of
    minutes, by what clock and signals say to all ranks."""
    now = time.monotonic()
    late, unsaved = now >= deadline, now - saved >= 60 * run.config.checkpoint_minutes
    affordable = run.config.max_minutes is None or run.evaluating <= EVALUATING * run.seconds_here
    told = run.ranks.heartbeat(run.seconds_here, stop.received or 0, late, unsaved, affordable)
    run.seconds_told, number, (late, unsaved, affordable) = told
    if number:
        stop.received = number
    return bool(number) or late, unsaved, affordable


def recorded(run: Run) -> bool:
    return bool(run.log) and run.log[-1]["step"] == run.steps


def record(run: Run, ahead: Ahead, progress: Progress) -> None:
    """Evaluates, adds a line to the log, and stops a run whose loss is no number."""
    seen, source, began = ahead.look(), run.source(), time.monotonic()
    run.updates = int(seen["updates"]) if run.step.scaled else run.steps
    with run.holding(run.step.average):
        if run.probes:
            train_nats, val_nats = (probe(run, source) for source in run.probes)
        else:
            train_nats = mean_loss(run, seen)
            # a network that has seen short windows only is lost beyond them
            nats, symbols = run.ranks.sharded(score)(run.network, run.watched, context=source.context)
            val_nats = float(nats.sum() / symbols.sum())
    run.evaluating += time.monotonic() - began
    missed, steps = int(seen["missed"]), int(seen["missed"] + seen["counted"])
    if missed >= ROW and 2 * missed > steps:
        raise run.diverged(f"{missed} of the {steps} steps up to step {run.steps} had no usable loss")
    if missed:
        reason = f"no finite gradients, or a loss above {run.step.limit:.0f} nats per character"
        run.ranks.say(f"steps left out since the last evaluation: {missed} ({reason})")
    run.step.tally[: TALLY.index("row")] = 0.0  # what is since the last evaluation
    if not math.isfinite(train_nats + val_nats):
        raise run.diverged(f"the loss is no finite number at step {run.steps}")
    if run.config.patience and source is run.batches:  # short windows make another figure, and no finished model
        remember(run, val_nats)
    seconds, characters = run.seconds, run.characters
    line = {
        "step": run.steps,
        "train": round(train_nats, 4),
        "val": round(val_nats, 4),
        "lr": round(run.lr if run.over() else run.rates().lr, 8),
        "chars_per_second": round((characters - run.recorded[1]) / max(seconds - run.recorded[0], 1e-9)),
        "seconds": round(seconds, 1),
        "characters": characters,
    }
    run.recorded = seconds, characters
    run.log.append(line)
    progress.line(line)


def mean_loss(run: Run, seen: dict[str, float]) -> float:
    """Of the usable steps since the last evaluation; NaN of none, where that is not how fp16 finds its scale; before
    the first step that of the first batch."""
    if seen["counted"]:
        return seen["loss_sum"] / seen["counted"]
    if seen["missed"] and not run.step.scaled:
        return math.nan
    loss = run.step.objective.probe(run.source(), [0]).double()
    return float(run.ranks.sum(loss)) / run.ranks.count


def probe(run: Run, batches: Batches) -> float:
    """The original's rule: mean nats per character over random batches, the same ones each time."""
    ours = range(run.config.eval_windows)[run.ranks.rank :: run.ranks.count]
    losses = torch.zeros(run.config.eval_windows, device=run.device)
    losses[ours.start :: ours.step] = run.step.objective.probe(batches, ours)
    return float(run.ranks.sum(losses).mean())


def remember(run: Run, val_nats: float) -> None:
    """Keeps the weights if no evaluation was better, and counts the evaluations since the best one."""
    run.stale += 1
    if run.best_val is None or val_nats < run.best_val:
        run.best_val, run.best_step, run.stale = val_nats, run.steps, 0
        run.best = (run.step.weights if run.step.average is None else run.step.average).clone()


def save(run: Run) -> None:
    """Writes the checkpoint, unless the weights are spoilt: the one before is then worth more."""
    loss = float(run.step.objective.probe(run.source(), [0]))
    if not loss < run.step.limit:  # or NaN
        raise run.diverged(f"the weights of step {run.steps} have a loss of {loss:.4g} nats per character")
    if run.ranks.leads:
        checkpoint.save(run, run.path)
    run.kept = run.steps
    run.ranks.barrier()  # a rank that ended before would have torchrun end the one that writes
