"""The end of a run: scores the weights as the file will hold them, writes the artifact, exports the graph."""

from __future__ import annotations

import math
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from model import artifacts
from model.network import build
from model.parse import FILES, MIB
from model.storyteller import untrained
from train import report
from train.batches import Batches
from train.distributed import RankLost
from train.evaluate import evaluation
from train.export import formats
from train.held_out import HeldOut, held_out, held_out_name
from train.run import Run
from train.step import TALLY
from train.writable import thinned

LONGEST = 1_000_000  # symbols of a single sequence that are scored at most within MINUTE
MINUTE = 60.0  # seconds for the final score, unless --final-stories gives a number

T = TypeVar("T")


def require_savable(run: Run) -> None:
    """Raises ValueError with the fix if the weights of a run would be too large for the file of an artifact."""
    size = sum(p.numel() for p in run.network.parameters()) * (2 if run.config.weights == "fp16" else 4)
    limit = FILES["model.safetensors"] - MIB  # for the header
    if size > limit:
        fix = "give a lower --width or --layers" + ("" if run.config.weights == "fp16" else ", or --weights fp16")
        raise ValueError(f"the weights would take {size:,} bytes; at most {limit:,} can be saved: {fix}")


def finish(run: Run, out: Path, command: str, held: HeldOut | None = None) -> None:
    """Scores the weights, writes the artifact with model.onnx to `out`, and marks the run as finished.

    `held` is what was read before the first step; None reads it now. A measurement that fails does not cost the
    artifact: a warning names it. Raises ValueError if no step changed the weights: an untrained model is not written.
    """
    config, seconds = run.config, run.seconds
    if not run.step.tally[TALLY.index("updates")]:
        raise ValueError(
            f"none of {run.steps} steps changed the weights, so there is no model to keep: give more --steps or "
            "--max-minutes, or a lower --lr"
        )
    held = held or held_out(run)
    weights = file_weights(run)
    network = build(config.model).to(run.device)
    network.load_state_dict(weights)
    figures = attempt(run, "the final score", lambda: final_score(run, network, held), together=True)
    if figures and not math.isfinite(figures["nats_per_character"]):
        raise run.diverged(f"the loss of the weights of step {run.steps} on {held.name} is not a finite number")
    scored = figures["stories"] if figures else run.config.eval_stories
    figures = (figures or last_evaluation(run)) | {"sha256": held.sha256}
    metrics = report.metrics(run, out.name, figures, round(seconds, 1), command)
    metrics |= comparisons(run, network, held, scored)
    if run.ranks.leads:
        metrics, log = artifacts.utf8_safe(metrics), thinned(run.log)
        story = attempt(run, "a sample", lambda: report.sample(metrics, network.cpu().eval(), run.text.vocab)) or ""
        artifacts.save(
            out,
            config=config.model,
            vocab=run.text.vocab,
            weights={name: tensor.numpy() for name, tensor in weights.items()},
            metrics=metrics,
            log=log,
            card=report.card(metrics, config.model, story),
        )
        graph = attempt(run, "model.onnx", lambda: formats.after_training(out, held.sequences))
        if graph:
            print(artifacts.utf8_safe(graph), file=sys.stderr)
        print(artifacts.utf8_safe(summary(out, metrics, config.model.vocab_size, story)))
    run.finished = True  # only after the export: a resumed run repeats what a kill prevented


def attempt(run: Run, what: str, action: Callable[[], T], *, together: bool = False) -> T | None:
    """Returns the result of an action at the end of a run. If it fails, prints a warning that names it, returns None.

    The training is done by then, and any error must not cost the artifact: lack of memory, a library's own. Among
    several ranks an error in what they do `together` is raised, because the others wait for this one.
    """
    try:
        return action()
    except RankLost:
        raise
    except Exception as error:
        if together and run.ranks.count > 1:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        run.ranks.say(f"warning: {what} is missing, because it failed ({reason}); the model is written without it")
        return None


def final_score(run: Run, network: nn.Module, held: HeldOut) -> dict[str, Any]:
    """The figures of the weights. They take at most a minute unless --final-stories gives a number."""
    budget, sequences, data = MINUTE if run.config.final_stories == 0 else None, held.sequences, held.name
    if budget and len(sequences) == 1 and len(sequences[0]) > LONGEST:  # a text without stories
        sequences, data = [sequences[0][:LONGEST]], f"{data}, its first {LONGEST:,} symbols"
    return evaluation(network, sequences[: run.config.final_stories or None], data, run.ranks, seconds=budget)


def last_evaluation(run: Run) -> dict[str, Any]:
    """The figures in place of a final score that failed: those of the evaluation that chose or ended the weights."""
    nats = run.log[-1]["val"] if run.best_val is None else run.best_val
    return {
        "data": f"{held_out_name(run.text, run.config.valid)}, at the last evaluation of the training",
        "stories": len(run.eval_sequences),
        "nats_per_character": round(nats, 5),
        "bits_per_character": round(nats / math.log(2), 5),
    }


def summary(out: Path, metrics: dict[str, Any], symbols: int, story: str) -> str:
    """Returns what a run prints at its end: the figures, what they mean, a story, and the next commands."""
    nats, figures = metrics["nats_per_character"], metrics["evaluation"]
    advice = ""
    if untrained(metrics, symbols):
        advice = "warning: it has learned almost nothing; give it more --steps or --max-minutes\n"
    indented = "\n".join(
        textwrap.fill(line, 100, initial_indent="  ", subsequent_indent="  ") for line in story.splitlines()
    )
    return f"""\
{out}: {nats:.4f} nats per character on {report.scored(figures)}, {metrics["parameters"]:,} parameters, \
{metrics["steps"]:,} steps in {metrics["seconds"]:.0f} s
In words: on text that it has not seen, the model is as unsure of each next character as if it had to choose
among {math.exp(nats):.1f} equally likely ones. Without training it would be among {symbols}; 1 is certainty.
{advice}A story that it tells:

{indented}

Tell another:   {report.tell_command(str(out), report.prompt_of(metrics))}
Open the page:  .venv/bin/python app.py{page_flag(out)}"""


def page_flag(out: Path) -> str:
    """Returns the flag with which the page shows this artifact; "" if it is in artifacts/, where the page looks."""
    here = Path(__file__).parents[1] / "artifacts"
    return "" if out.resolve().parent == here.resolve() else f" --artifacts {shlex.quote(str(out.parent))}"


def file_weights(run: Run) -> dict[str, torch.Tensor]:
    """The weights to keep, in the precision of their file. Raises Diverged if they exceed its range."""
    dtype = torch.float16 if run.config.weights == "fp16" else torch.float32
    with run.with_weights(run.step.average if run.best is None else run.best):
        weights = {name: p.detach().to(dtype, copy=True).cpu() for name, p in run.network.state_dict().items()}
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise run.diverged(f"the weights of step {run.steps} are too large for {run.config.weights}")
    return weights


def comparisons(run: Run, network: nn.Module, held: HeldOut, stories: int) -> dict[str, Any]:
    """Further figures, if configured: the loss by nanoGPT's rule, the base model's score, and the teacher's name."""
    found: dict[str, Any] = {}
    if windows := held.windows:
        count = run.config.final_windows
        nats = attempt(run, "the score by --final-windows", lambda: windows_nats(run, network, windows), together=True)
        if nats is not None:
            found["windows"] = {"batches": count, "batch_size": windows.batch_size, "nats_per_character": nats}
    if run.base:
        found["base"] = report.origin(run.base)
        same = run.base.vocab == run.text.vocab  # one with fewer symbols cannot read this text
        scored = same and attempt(
            run, f"the score of {run.base.name}", lambda: base_score(run, held.sequences[:stories])
        )
        if scored:
            found["base"]["nats_per_character"] = scored
    if run.teacher:
        found["teacher"] = report.origin(run.teacher)
    return found


def windows_nats(run: Run, network: nn.Module, windows: Batches) -> float:
    """Nats per character by nanoGPT's rule: the mean over random batches."""
    ours = range(run.config.final_windows)[run.ranks.rank :: run.ranks.count]
    losses = run.ranks.sum(run.step.objective.batch_losses(windows, ours, network).sum())
    return finite(float(losses) / run.config.final_windows)


def base_score(run: Run, sequences: Sequence[Sequence[int]]) -> float:
    return finite(evaluation(run.base.network.to(run.device), sequences, "")["nats_per_character"])


def finite(nats: float) -> float:
    """Returns nats, rounded. Raises ValueError if they are not a number, which JSON could not hold."""
    if not math.isfinite(nats):
        raise ValueError(f"the loss is {nats}, not a finite number")
    return round(nats, 5)
