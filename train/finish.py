"""The end of a run: scores the weights as the file will hold them, writes the artifact, exports the graph."""

from __future__ import annotations

import hashlib
import math
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model import artifacts, load
from model.network import build
from model.storyteller import untrained
from train import report
from train.batches import Batches
from train.evaluate import evaluation, sequence
from train.export import formats
from train.run import Run
from train.step import TALLY
from train.text.corpus import Corpus, read_stories
from train.text.encoded import stories_in
from train.text.files import sha256
from train.text.sources import held_out_files

LONGEST = 1_000_000  # symbols of a single sequence that are scored at most within MINUTE
MINUTE = 60.0  # seconds for the final score, unless --final-stories gives a number


def finish(run: Run, out: Path, command: str) -> None:
    """Scores the weights, writes the artifact with model.onnx to `out`, and marks the run as finished.

    Raises ValueError if no step changed the weights: an untrained model is not written.
    """
    config, seconds = run.config, run.seconds
    if not run.step.tally[TALLY.index("updates")]:
        raise ValueError(
            f"none of {run.steps} steps changed the weights, so there is no model to keep: give more --steps or "
            "--max-minutes, or a lower --lr"
        )
    weights = file_weights(run)
    network = build(config.model).to(run.device)
    network.load_state_dict(weights)
    sequences, data = held_out(run)
    budget = MINUTE if config.final_stories == 0 else None
    if budget and len(sequences) == 1 and len(sequences[0]) > LONGEST:  # a text without stories
        sequences, data = [sequences[0][:LONGEST]], f"{data}, its first {LONGEST:,} symbols"
    figures = evaluation(network, sequences[: config.final_stories or None], data, run.ranks, seconds=budget)
    figures["sha256"] = held_out_sha256(run)
    metrics = report.metrics(run, out.name, figures, round(seconds, 1), command)
    metrics |= comparisons(run, network, sequences[: figures["stories"]])
    if run.ranks.leads:
        metrics = artifacts.utf8_safe(metrics)
        story = report.sample(metrics, network.cpu().eval(), run.text.vocab)
        artifacts.save(
            out,
            config=config.model,
            vocab=run.text.vocab,
            weights={name: tensor.numpy() for name, tensor in weights.items()},
            metrics=metrics,
            log=run.log,
            card=report.card(metrics, config.model, story),
        )
        print(artifacts.utf8_safe(formats.after_training(out, sequences)), file=sys.stderr)
        print(artifacts.utf8_safe(summary(out, metrics, config.model.vocab_size, story)))
    run.finished = True  # only after the export: a resumed run repeats what a kill prevented


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

Tell another:   {report.tell_command(str(out))}
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


def held_out(run: Run) -> tuple[list[Any], str]:
    """The stories to score at the end, and the name of their text on the model card."""
    config, text = run.config, run.text
    if config.cleaning == "classic" and config.valid:
        return [sequence(text.vocab, story) for story in read_stories(config.valid)], Path(config.valid).name
    return stories_in(text.valid, text.vocab), held_out_name(text, config.valid)


def held_out_sha256(run: Run) -> str:
    """Returns the SHA-256 of the held-out file, or of the hashes of several files.

    Models with the same value were scored on the same text.
    """
    config, sources = run.config, run.text.report
    hashes = [source["sha256"] for source in sources["validation_sources"] or sources["sources"]]
    if config.cleaning == "classic" and config.valid:
        hashes = [sha256(path) for path in held_out_files(Path(config.valid))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def held_out_name(text: Corpus, given: str | None) -> str:
    """The name of a corpus's validation text on the model card. `given` is the user's --valid, if any."""
    files = [source["file"] for source in text.report["validation_sources"]]
    if "tales" in text.report and not given:
        return f"{text.name} (the held-out tales)"
    return ", ".join(files) or f"{text.name} (the part held out)"


def comparisons(run: Run, network: nn.Module, stories: list[Any]) -> dict[str, Any]:
    """Further figures, if configured: the loss by nanoGPT's rule, the base model's score, and the teacher's name."""
    config, found = run.config, {}
    if count := config.final_windows:
        size = {"context": config.model.context, "batch_size": 64, "device": run.device}
        batches = Batches(run.text.valid, seed=config.seed + 1, **size)
        ours = range(count)[run.ranks.rank :: run.ranks.count]
        losses = run.ranks.sum(run.step.objective.batch_losses(batches, ours, network).sum()) / count
        found["windows"] = {"batches": count, "batch_size": 64, "nats_per_character": round(float(losses), 5)}
    if config.init:
        base = load(config.init)
        figures = evaluation(base.network.to(run.device), stories, "")
        found["base"] = report.origin(base) | {"nats_per_character": figures["nats_per_character"]}
    if run.teacher:
        found["teacher"] = report.origin(run.teacher)
    return found
