"""The reports that a run writes: metrics.json and the model card."""

from __future__ import annotations

import html
import json
import os
import platform
import re
import shlex
import subprocess
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from model.config import ModelConfig
from model.drafts import TorchDrafts
from model.sampling import USUAL
from model.storyteller import Storyteller
from model.teller import DraftTeller, story_pieces
from model.vocab import Vocab
from train.device import device_name
from train.judge import LONGEST
from train.run import Run
from train.text.corpus import named
from train.text.openings import prompts
from train.text.scripts import card_language, hub_language, recorded_language
from train.writable import cell, code, on_one_line, shortened

SAMPLE = replace(USUAL, seed=7)
SAMPLE_PROMPT = "Once upon a time"
TINYSTORIES = ("tinystories", "tinystories-v2")
TINYSTORIES_CHARACTERS = 1_900_000_000  # of TinyStories-train.txt
LICENCE = "stories written by GPT-3.5 and GPT-4 for small children (Eldan and Li, 2023), under CDLA-Sharing-1.0"
MEMORISED = 200  # characters: the card mentions a longer run in common with the training text
READING = {  # the figures of train.judge, and their names on the card
    "known_words": "words that occur in the training text",
    "distinct_1": "different words",
    "distinct_2": "different pairs of words",
    "distinct_3": "different triples of words",
    "repeated": "sequences of four words that stood in the story before",
    "closed_quotes": "lines that close their quotes",
    "ended": f"stories that end by themselves within {LONGEST:,} characters",
    "name_returns": "a name of the first sentence returns in the last third",
    "characters": "characters in a story, mean",
    "copied_median": "longest run copied from the training text, characters: median",
    "copied_worst": "the same: worst",
}


def metrics(run: Run, name: str, figures: dict[str, Any], seconds: float, command: str) -> dict[str, Any]:
    """The content of metrics.json: the figures of a finished run, and what is needed to reproduce them."""
    config, text, last = run.config, run.text.report, run.log[-1]
    before = run.base.metrics.get("language") if run.base and run.base.vocab == run.text.vocab else None
    spoken = recorded_language(config.language, run.text.vocab, run.text.train, config.vocab, before)
    data = text | named(config.data)
    if config.replay:
        data["replay"] = text["replay"] | named(config.replay) | {"share": config.replay_share}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    for package in ("safetensors", "onnx", "onnxruntime"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    machine = {"platform": platform.platform(), "cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count()}
    return {
        "name": name,
        "nats_per_character": figures["nats_per_character"],
        "bits_per_character": figures["bits_per_character"],
        "evaluation": figures,
        "train_loss": last["train"],
        "val_loss": last["val"],
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "steps": run.steps,
        "characters_seen": run.characters,
        "seconds": seconds,
        "device": (f"{run.ranks.count} x " if run.ranks.count > 1 else "") + device_name(run.device),
        "threads": torch.get_num_threads(),
        "precision": run.step.objective.precision,
        "seed": config.seed,
        "preset": config.preset,
        "data": shortened(data),
        "command": command,
        "commit": run.commit,
        **({"best_step": run.best_step} if run.best is not None else {}),
        **spoken,
        **prompts(config.data, run.text, card_language(spoken)),
        "versions": versions,
        "environment": machine,
    }


def origin(storyteller: Storyteller) -> dict[str, Any]:
    """What a card says about the base model or the teacher of a run."""
    return {
        "name": storyteller.name,
        "data": storyteller.metrics.get("data", {}).get("name"),
        "tinystories": learned_tinystories(storyteller.metrics),
        "weights_sha256": storyteller.hashes["model.safetensors"],
    }


def is_tinystories(data: dict[str, Any]) -> bool:
    """Whether a training text is TinyStories."""
    return data.get("corpus") in TINYSTORIES


def learned_tinystories(metrics: dict[str, Any]) -> bool:
    """Whether a model learned from TinyStories: by its data or replay, or through its base model or teacher."""
    data = metrics.get("data", {})
    others = (metrics.get(name, {}) for name in ("base", "teacher"))
    return any(map(is_tinystories, (data, data.get("replay", {})))) or any(it.get("tinystories") for it in others)


def commit() -> str | None:
    """The commit of the code, followed by "+" if files were changed; None outside a git checkout."""

    def git(*arguments: str) -> str:
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}  # git complains in the locale's language
        run = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, check=True, **quiet)
        return run.stdout.decode(errors="replace").strip()

    try:
        changed = git("status", "--porcelain", "--", "../model", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def sample(metrics: dict[str, Any], network: nn.Module, vocab: Vocab) -> str:
    """Tells the story, with its prompt, that the card and the end of a run show."""
    prompt = prompt_of(metrics)
    teller = DraftTeller(vocab, prompt, SAMPLE, network.config.context)
    return prompt + "".join(story_pieces(teller, TorchDrafts(network)))


def prompt_of(metrics: dict[str, Any]) -> str:
    """Returns the prompt of the sample: the first of the text's own prompts; else the usual one in English, or ""."""
    return (metrics.get("prompts") or [SAMPLE_PROMPT if card_language(metrics) == "en" else ""])[0]


def tell_command(model: str, prompt: str = SAMPLE_PROMPT) -> str:
    """Returns the command that tells a story with a model."""
    return f".venv/bin/python -m model {shlex.quote(prompt)} --model {shlex.quote(model)} --seed {SAMPLE.seed}"


def card(metrics: dict[str, Any], shape: ModelConfig, story: str) -> str:
    """README.md of an artifact: a model card for the Hub, made of metrics.json and a `sample`."""
    prompt, metrics = prompt_of(metrics), on_one_line(metrics)
    data, figures = metrics["data"], metrics["evaluation"]
    trained = data["train"]
    stories = f" in {trained['stories']:,} stories" if "stories" in trained else ""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", story)), default=0))
    english = "English " if card_language(metrics) == "en" else ""
    tuned = f", fine-tuned from {metrics['base']['name']}" if "base" in metrics else ""
    return f"""{front_matter(metrics)}
# {metrics["name"]}

A character-level GPT of {metrics["parameters"]:,} parameters, trained from scratch{tuned}.

| | |
|---|---|
| nats per character | {metrics["nats_per_character"]:.4f} on {cell(scored(figures))} |
| bits per character | {metrics["bits_per_character"]:.4f} |
{besides(metrics, shape.context)}| architecture | {shape.architecture}: {shape.layers} layers, {shape.heads} heads, \
width {shape.width}, hidden {shape.hidden_width}, context {shape.context}, {shape.vocab_size} symbols |
| trained on | {cell(data["name"])}: {trained["characters"]:,} characters{stories} |
| seen | {metrics["characters_seen"]:,} characters in {metrics["steps"]:,} steps |
| took | {metrics["seconds"] / 60:.0f} minutes on {metrics["device"]}, {metrics["precision"]} |
| to train one like it | {cell(code(metrics["command"]))} |

Each held-out story is scored symbol by symbol, its closing end mark included where the vocabulary has one, in windows
of the context that advance by half a context; the sum of nats is divided by the number of symbols.

{reading(metrics)}## A story

Prompt {html.escape(json.dumps(prompt, ensure_ascii=False), quote=False)}, \
temperature {SAMPLE.temperature}, min-p {SAMPLE.min_p}, seed {SAMPLE.seed}, at most {SAMPLE.length:,} characters, \
each sentence the best of {SAMPLE.drafts} drafts behind each of {SAMPLE.beams} beginnings:

{fence}
{story}
{fence}

## Use

```
{tell_command(f"artifacts/{metrics['name']}", prompt)}
```

## Data and licence

{source(metrics)}

## Limits

It writes {english}in the manner of its training text and knows nothing else. It is small: names change, plots drift, \
and
what it says is not true. It is meant for fiction, for fun and for learning how such a model works; it knows no facts.
Nothing filters what it writes.
"""


def front_matter(metrics: dict[str, Any]) -> str:
    """The front matter of a card, for the Hub."""
    text = {"task_type": "text-generation", "dataset_type": "text", "dataset_name": metrics["evaluation"]["data"]}
    names = "nats_per_character", "bits_per_character"
    results = [EvalResult(metric_type=name, metric_value=metrics[name], **text) for name in names]
    data = ModelCardData(
        license="mit",
        **hub_language(metrics),
        library_name="pytorch",
        pipeline_tag="text-generation",
        tags=["character-level", "gpt", "from-scratch"],
        datasets=["roneneldan/TinyStories"] if learned_tinystories(metrics) else None,
        model_name=metrics["name"],
        eval_results=results,
    )
    return f"---\n{data}\n---\n"


def besides(metrics: dict[str, Any], context: int) -> str:
    """The rows of a card that only some runs have."""
    rows = ""
    if windows := metrics.get("windows"):
        over = f"{windows['batches']} random batches of {windows['batch_size']} windows of {context}"
        rows += f"| val loss, nanoGPT's rule | {windows['nats_per_character']:.4f}: {over} |\n"
    if base := metrics.get("base"):
        nats = f": {base['nats_per_character']:.4f} on the same text" if "nats_per_character" in base else ""
        rows += f"| fine-tuned from | {cell(base['name'])} ({cell(base['data'])}){nats} |\n"
    return rows


def scored(figures: dict[str, Any]) -> str:
    """What a figure was measured on: so many stories, or a single text."""
    return f"{figures['stories']:,} stories of {figures['data']}" if figures["stories"] > 1 else figures["data"]


def source(metrics: dict[str, Any]) -> str:
    """What a card says about the training text: its source, how much of it was used, and its licence."""
    data = metrics["data"]
    corpus, characters = data.get("corpus"), data["train"]["characters"]
    millions = f"{characters / 1e6:,.1f} million characters"
    if is_tinystories(data):
        share = characters / TINYSTORIES_CHARACTERS
        part = "under 1%" if share < 0.01 else f"{share:.0%}"
        text = f"{millions} of TinyStories, {part} of its training text: {LICENCE}."
    elif corpus == "shakespeare":
        text = f"Tiny Shakespeare, {millions} of his plays, in the public domain."
    elif "tales" in data:
        books = ", ".join(file["file"] for file in data["tales"]["books"])
        free = "Those books are in the public domain, Ryder's of 1925 in the United States."
        licence = free if corpus == "panchatantra" else "Their licence is that of the books."
        text = f"Tales out of {books}: {millions}. {licence}"
    else:
        text = f"{data['name']}, {millions}; its licence is that of the text."
    if base := metrics.get("base"):
        text += f" It was fine-tuned from {base['name']}, which learned from {base['data']}."
    if teacher := metrics.get("teacher"):
        student = f" Half of its loss came from the predictions of {teacher['name']}"
        text += f"{student}, which learned from {teacher['data']}."
    if replay := data.get("replay"):
        text += f" So as not to forget it, {replay['share']:.0%} of the windows came from {replay['name']}."
    if not is_tinystories(data) and learned_tinystories(metrics):
        text += f" That is TinyStories: {LICENCE}."
    return f"{text} None of the text is in this repository; the weights are under the MIT licence."


def reading(metrics: dict[str, Any]) -> str:
    """The part of a card that compares told stories with real ones, if that was measured."""
    if not (figures := metrics.get("stories")):
        return ""
    told, real, copied = figures["told"], figures["held_out"], figures["told"]["copied_worst"]
    settings = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in figures["sampling"].items())
    head = f"{told['stories']} told stories ({settings}) beside {real['stories']} of {figures['data']}:"
    rows = "".join(f"| {name} | {figure(told[key])} | {figure(real[key])} |\n" for key, name in READING.items())
    note = f"\nOne told story repeats {copied} characters of the training text word for word.\n"
    note *= copied > MEMORISED
    return f"## How its stories read\n\n{head}\n\n| | told | real |\n|---|---|---|\n{rows}{note}\n"


def figure(value: float | None) -> str:
    """A figure of train.judge as a table cell: a count, or a share with three decimals."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
