"""Training: prepare, step, evaluate, save, stop. Read from top to bottom."""

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
from train.distributed import Ranks, process_group
from train.evaluate import score
from train.finish import finish, require_savable
from train.held_out import held_out
from train.interrupts import Interrupted, Stop, stop_signals
from train.lock import exclusive_output
from train.presets import TrainConfig
from train.progress import Progress, require_tracker
from train.run import Run
from train.step import TALLY, StepQueue
from train.text import corpus
from train.text.alphabet import Alphabet
from train.text.dataset_report import dataset_report
from train.text.sources import held_out_files

ROW = 20  # consecutive steps without a usable loss that end a run
SHORTEST_COMPILED = 600  # seconds: in a shorter run on a CPU, compiling (70 to 290 seconds) takes longer than it saves
EVALUATING = 0.05  # share of --max-minutes that evaluations may take


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    stop_after: float | None = None,
    command: str = "",
    cache: Path | None = None,
) -> bool:
    """Runs `config` and writes its artifact to `out`. Returns True when the run is finished.

    Returns False after `stop_after` minutes: `resume` can then go on from a checkpoint beside `out`. Raises Interrupted
    after SIGINT or SIGTERM. Raises ValueError (also CorpusError, CheckpointError, ArtifactError) if it cannot run.
    """
    with stop_signals() as stop, process_group(config, stop) as ranks, memory_explained(config, ranks.count):
        # check the settings before gigabytes are downloaded, and the folder before hours are spent
        device = set_up(config)
        require_tracker(config)
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: choose another --out, or move it away")
        with exclusive_output(out, checkpoint_path(out).with_name("lock")) if ranks.leads else nullcontext():
            run = Run(config, prepared(config, ranks, cache), checkpoint_path(out), ranks)
            if device.type == "cuda" and run.step.scaled and config.precision == "bf16":
                ranks.say("this GPU has no bfloat16: using float16 instead")
            require_savable(run)
            held = held_out(run)
            run.commit = report.commit()  # read now: another commit may be checked out during the run
            kept, written = ranks.broadcast((run.path.exists(), out.exists()))
            if kept and resume:
                before = checkpoint.restore(run, run.path)
                if run.finished:
                    checkpoint.require_same_length(run, before, out)
                if run.finished and written:
                    ranks.say(f"{out} is finished: nothing to do")
                    return True
            elif kept:
                ranks.say(f"{run.path} of an earlier run will be replaced; to go on from it, give --resume")
            ranks.say("\n".join(dataset_report(run.text, config)))
            with stop.deferred():
                if not until(run, 60 * stop_after if stop_after else math.inf, stop):
                    save(run)
                    if stop.received:
                        raise Interrupted(stop.received)
                    return False
            save(run)  # the rest can fail on a full disk; the training then need not be repeated
            finish(run, out, command, held)
            save(run)
            return True


def prepared(config: TrainConfig, ranks: Ranks, cache: Path | None) -> corpus.Corpus:
    """The text of a run. One rank prepares it, and the others read it from the cache."""
    # The original validates on the last tenth of its corpus; a validation file is then for the final score only.
    own_split = config.cleaning == "classic"
    if config.valid:
        held_out_files(Path(config.valid))  # is there one, before gigabytes are downloaded?
    base = load(config.init).vocab if config.init else None
    alphabet = Alphabet(config.vocab, config.min_count, base if config.grow_vocab else None)
    prepare = partial(ranks.in_turn, corpus.prepare, cache=cache, progress=ranks.leads)
    text = prepare(
        config.data,
        valid=None if own_split else config.valid,
        cleaning=config.cleaning,
        stories=config.stories,
        vocab=base if base and not config.grow_vocab else alphabet,
    )
    if config.replay:
        # as the base has learned it: the symbols of a grown vocabulary begin with the base's
        text = corpus.with_replay(text, prepare(config.replay, vocab=base or text.vocab, exclude=text))
    ranks.require_same(text.report["fingerprint"], "text")
    return text


def checkpoint_path(out: Path) -> Path:
    """The checkpoint of a run that writes to `out`: in a hidden folder beside `out`, or beside the target of a link."""
    out = out.resolve() if out.is_symlink() else out
    return out.parent / f".{out.name}.run" / "checkpoint.safetensors"


def until(run: Run, seconds: float, stop: Stop) -> bool:
    """Trains until the run is over (returns True), or until a signal or that many seconds have passed (False)."""
    config = run.config
    if wants_compiling(run):
        compile_step(run)
    queue = StepQueue(run.step)
    saved, deadline = time.monotonic(), time.monotonic() + seconds
    run.clock.skip()
    with Progress(config, run.path.parent, run.ranks.leads, run.steps) as progress:
        halt, _, affordable = heartbeat(run, deadline, saved, stop)
        while not run.over():
            if halt:
                return False
            if run.steps % config.eval_every == 0 and affordable and not recorded(run):
                record(run, queue, progress)
                if run.over():  # early stopping (--patience)
                    break
            take_step(run, queue)
            progress.update(run, queue.latest["loss_sum"] / max(queue.latest["counted"], 1))
            run.end_of("a step")
            halt, unsaved, affordable = heartbeat(run, deadline, saved, stop)
            if unsaved:
                save(run)
                run.end_of("a checkpoint")
                saved = time.monotonic()
        if not recorded(run):
            record(run, queue, progress)
    return True


def wants_compiling(run: Run) -> bool:
    """Returns whether to compile the step.

    --compile and --no-compile decide. Otherwise a GPU always compiles, and a CPU if the run is long enough. A resumed
    run does what it did before.
    """
    if run.over() or run.config.compile is False:
        return False
    if run.config.compile or run.device.type == "cuda":
        return True
    if run.compiled is None:
        run.compiled = run.ranks.broadcast(seconds_left(run) >= SHORTEST_COMPILED)
    if not run.compiled:
        limit = f"a run of less than {SHORTEST_COMPILED / 60:.0f} minutes does not save that time"
        run.ranks.say(f"not compiled: compiling takes minutes, and {limit}; --compile compiles anyway")
    return run.compiled


def seconds_left(run: Run) -> float:
    """Estimates how long the rest of the run takes without compiling: its budget, or its steps times one step."""
    config = run.config
    left = math.inf if config.max_minutes is None else 60 * config.max_minutes - run.seconds
    if config.steps:
        batch = run.source().batch(0)
        with torch.random.fork_rng(devices=[]):  # dropout draws the same numbers with and without this
            for _ in range(2):  # the first one sets things up
                began = time.monotonic()
                torch.autograd.grad(run.step.objective.eager(*batch)[1], run.step.parameters.list)
        left = min(left, (time.monotonic() - began) * config.accumulate * (config.steps - run.steps))
    return left


def compile_step(run: Run) -> None:
    run.ranks.say(
        "compiling the step: this takes about a minute, or up to five on a busy machine; --max-minutes starts after it"
    )
    began, sources = time.monotonic(), list(dict.fromkeys((run.short, run.batches)))
    if reason := run.step.objective.compile(sources, run.step.parameters.list):
        run.ranks.say(f"not compiled ({reason}): steps are slower; install a C++ compiler, or give --no-compile")
    else:
        run.ranks.say(f"compiled in {time.monotonic() - began:.0f} s")


def take_step(run: Run, queue: StepQueue) -> None:
    """Enqueues one step at the scheduled rates. Raises Diverged after ROW consecutive steps without a usable loss."""
    seen = queue.wait()
    if seen["missed_in_row"] >= ROW:
        raise run.diverged(f"{seen['missed_in_row']:.0f} steps in a row up to step {run.steps} had no usable loss")
    first = not run.clock.running
    run.clock.start()
    # A step whose gradient overflowed in fp16 is not an update, so the schedule does not advance either.
    run.updates = int(seen["updates"]) if run.step.scaled else run.steps
    rates = run.rates()
    run.lr = rates.lr
    run.ranks.seed(run.config.seed, run.steps)
    queue.enqueue(run.source(), rates)
    run.steps += 1
    if first:
        gc.freeze()  # existing objects live until the end, so the collector can skip them


def heartbeat(run: Run, deadline: float, saved: float, stop: Stop) -> tuple[bool, bool, bool]:
    """Whether to stop now, whether a checkpoint is due, and whether an evaluation fits into its share of --max-minutes.
    All ranks get the same answers, from the clock of rank 0 and the signals of any rank."""
    now = time.monotonic()
    late, unsaved = now >= deadline, now - saved >= 60 * run.config.checkpoint_minutes
    affordable = run.config.max_minutes is None or run.evaluating <= EVALUATING * run.seconds_here
    told = run.ranks.heartbeat(run.seconds_here, stop.received or 0, late, unsaved, affordable)
    run.shared_seconds, number, (late, unsaved, affordable) = told
    if number:
        stop.received = number
    return bool(number) or late, unsaved, affordable


def recorded(run: Run) -> bool:
    return bool(run.log) and run.log[-1]["step"] == run.steps


def record(run: Run, queue: StepQueue, progress: Progress) -> None:
    """Evaluates and adds a line to the log. Raises Diverged if the loss is not a number."""
    seen, source = queue.synchronise(), run.source()
    run.end_of("a wait")
    run.updates = int(seen["updates"]) if run.step.scaled else run.steps
    with run.with_weights(run.step.average):
        if run.eval_batches:
            train_nats, val_nats = (probe(run, source) for source in run.eval_batches)
        else:
            train_nats = mean_loss(run, seen)
            # a network trained only on short windows predicts badly beyond their length
            nats, symbols = run.ranks.sharded(score)(run.network, run.eval_sequences, context=source.context)
            val_nats = float(nats.sum() / symbols.sum())
    run.evaluating += run.end_of("an evaluation")
    missed, steps = int(seen["missed"]), int(seen["missed"] + seen["counted"])
    if missed >= ROW and 2 * missed > steps:
        raise run.diverged(f"{missed} of the {steps} steps up to step {run.steps} had no usable loss")
    if missed:
        reason = f"gradients not finite, or a loss above {run.step.limit:.0f} nats per character"
        run.ranks.say(f"steps left out since the last evaluation: {missed} ({reason})")
    run.step.tally[: TALLY.index("missed_in_row")] = 0.0  # the counters since the last evaluation
    if not math.isfinite(train_nats + val_nats):
        raise run.diverged(f"the loss is not a finite number at step {run.steps}")
    if run.config.patience and source is run.batches:  # losses of short windows are not comparable
        remember(run, val_nats)
    seconds, characters = run.seconds, run.characters
    line = {
        "step": run.steps,
        "train": round(train_nats, 4),
        "val": round(val_nats, 4),
        "lr": round(run.lr if run.over() else run.rates().lr, 8),
        "chars_per_second": round((characters - run.last_logged[1]) / max(seconds - run.last_logged[0], 1e-9)),
        "seconds": round(seconds, 1),
        "characters": characters,
    }
    run.last_logged = seconds, characters
    run.log.append(line)
    progress.line(line)


def mean_loss(run: Run, seen: dict[str, float]) -> float:
    """The mean loss of the usable steps since the last evaluation; NaN if no step was usable. Before the first step and
    in fp16, which finds its loss scale by unusable steps, the loss of batch 0 replaces NaN."""
    if seen["counted"]:
        return seen["loss_sum"] / seen["counted"]
    if seen["missed"] and not run.step.scaled:
        return math.nan
    loss = run.step.objective.batch_losses(run.source(), [0]).double()
    return float(run.ranks.sum(loss)) / run.ranks.count


def probe(run: Run, batches: Batches) -> float:
    """The loss by the original's rule: mean nats per character over random batches, the same ones each time."""
    ours = range(run.config.eval_windows)[run.ranks.rank :: run.ranks.count]
    losses = torch.zeros(run.config.eval_windows, device=run.device)
    losses[ours.start :: ours.step] = run.step.objective.batch_losses(batches, ours)
    return float(run.ranks.sum(losses).mean())


def remember(run: Run, val_nats: float) -> None:
    """Keeps the weights if this evaluation is the best so far. Counts the evaluations since the best one."""
    run.stale += 1
    if run.best_val is None or val_nats < run.best_val:
        run.best_val, run.best_step, run.stale = val_nats, run.steps, 0
        run.best = (run.step.weights if run.step.average is None else run.step.average).clone()


def save(run: Run) -> None:
    """Writes the checkpoint. Raises Diverged instead if the weights are unusable, and keeps the earlier one."""
    loss = float(run.step.objective.batch_losses(run.source(), [0]))
    if not loss < run.step.limit:  # or NaN
        raise run.diverged(f"the weights of step {run.steps} have a loss of {loss:.4g} nats per character")
    if run.ranks.leads:
        checkpoint.save(run, run.path)
    run.checkpoint_step = run.steps
    run.ranks.barrier()  # if another rank ended earlier, torchrun would end the one that writes
