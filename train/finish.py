"""The end of a run: its weights scored as their file will hold them, the artifact, the graph."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model import artifacts, load
from model.network import build
from train import report
from train.batches import Batches
from train.evaluate import evaluation, sequence
from train.export import formats
from train.run import Run
from train.text.corpus import Corpus, read_stories
from train.text.encoded import stories_in

LONGEST = 1_000_000  # symbols of one sequence that are scored in that time
MINUTE = 60.0  # seconds that the final score may take, unless a number of stories is given


def finish(run: Run, out: Path, command: str) -> None:
    """Scores the weights, writes the artifact to `out` and model.onnx into it; the run is then finished."""
    config, seconds = run.config, run.seconds
    weights = file_weights(run)
    network = build(config.model).to(run.device)
    network.load_state_dict(weights)
    sequences, data = held_out(run)
    budget = MINUTE if config.final_stories == 0 else None
    if budget and len(sequences) == 1 and len(sequences[0]) > LONGEST:  # a text without stories
        sequences, data = [sequences[0][:LONGEST]], f"{data}, its first {LONGEST:,} symbols"
    figures = evaluation(network, sequences[: config.final_stories or None], data, run.ranks, seconds=budget)
    metrics = report.metrics(run, out.name, figures, round(seconds, 1), command)
    metrics |= comparisons(run, network, sequences[: figures["stories"]])
    if run.ranks.leads:
        metrics = artifacts.utf8_safe(metrics)
        artifacts.save(
            out,
            config=config.model,
            vocab=run.text.vocab,
            weights={name: tensor.numpy() for name, tensor in weights.items()},
            metrics=metrics,
            log=run.log,
            card=report.card(metrics, network.cpu().eval(), run.text.vocab),
        )
        line = (
            f"{out}: {figures['nats_per_character']:.4f} nats per character on {report.scored(figures)}, "
            f"{metrics['parameters']:,} parameters, {run.steps:,} steps in {seconds:.0f} s"
        )
        print(artifacts.utf8_safe(line))
        print(artifacts.utf8_safe(formats.after_training(out, sequences)), file=sys.stderr)
    run.finished = True  # not before the graph is there: what a kill leaves out, a resumed run makes up for


def file_weights(run: Run) -> dict[str, torch.Tensor]:
    """The weights to keep, in the precision of their file. Raises Diverged where that cannot hold them."""
    dtype = torch.float16 if run.config.weights == "fp16" else torch.float32
    with run.holding(run.step.average if run.best is None else run.best):
        weights = {name: p.detach().to(dtype, copy=True).cpu() for name, p in run.network.state_dict().items()}
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise run.diverged(f"the weights of step {run.steps} are too large for {run.config.weights}")
    return weights


def held_out(run: Run) -> tuple[list[Any], str]:
    """The stories to score at the end, and what their text is called on a card."""
    config, text = run.config, run.text
    if config.cleaning == "classic" and config.valid:
        return [sequence(text.vocab, story) for story in read_stories(config.valid)], Path(config.valid).name
    return stories_in(text.valid, text.vocab), held_out_name(text, config.valid)


def held_out_name(text: Corpus, given: str | None) -> str:
    """What the validation text of a corpus is called on a card; `given` is the one that the user named."""
    files = [source["file"] for source in text.report["validation_sources"]]
    if "tales" in text.report and not given:
        return f"{text.name} (the held-out tales)"
    return ", ".join(files) or f"{text.name} (the part held out)"


def comparisons(run: Run, network: nn.Module, stories: list[Any]) -> dict[str, Any]:
    """What the settings ask to be measured besides: by nanoGPT's rule, and the model that this one started from."""
    config, found = run.config, {}
    if count := config.final_windows:
        size = {"context": config.model.context, "batch_size": 64, "device": run.device}
        batches = Batches(run.text.valid, seed=config.seed + 1, **size)
        ours = range(count)[run.ranks.rank :: run.ranks.count]
        losses = run.ranks.sum(run.step.objective.probe(batches, ours, network).sum()) / count
        found["windows"] = {"batches": count, "batch_size": 64, "nats_per_character": round(float(losses), 5)}
    if config.init:
        base = load(config.init)
        figures = evaluation(base.network.to(run.device), stories, "")
        found["base"] = report.origin(base) | {"nats_per_character": figures["nats_per_character"]}
    if run.teacher:
        found["teacher"] = report.origin(run.teacher)
    return found
