"""What a run leaves to read: metrics and the model card; python -m train.report renews the README's tables."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from model.decoder import TorchDecoder
from model.sampling import Sampling
from model.storyteller import Storyteller, find, tell
from model.vocab import Vocab
from train.device import device_name
from train.judge import LONGEST

if TYPE_CHECKING:
    from train.loop import Run

ORIGINAL = {"classic": (1.3293, 1.3342), "classic-onecycle": (1.1208, 1.1370)}  # its train and val loss
SAMPLE = Sampling(length=600, temperature=0.8, seed=7)
SAMPLE_PROMPT = "Once upon a time"
TOLD = Sampling(length=300, temperature=0.8, seed=7)  # by every model, in the README
# Beginnings that suit a voice of its own: the page offers them, the first one opens the story of the card.
PROMPTS = {
    "shakespeare": ("ROMEO:", "JULIET:\nO gentle night,", "KING RICHARD III:\n", "First Citizen:\nBefore we proceed"),
    "panchatantra": (
        "Once upon a time there was a lion who",
        "In a certain forest there lived a jackal",
        "The crane said to the crab,",
        "There was once a king of Benares",
    ),
}
TINY_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of karpathy/char-rnn
# 20 MB out of the stories of TinyStories, which the artifacts here learned from.
SOME_TINYSTORIES = "e72993c3e7fa46ff183d100a4f414b074e8e91c80f7716043d54c4ae8131a2ca"
TINYSTORIES = ("tinystories", "tinystories-v2")  # as corpora are named
TINYSTORIES_CHARACTERS = 1_900_000_000  # of TinyStories-train.txt
TINYSTORIES_LICENCE = (
    "stories written by GPT-3.5 and GPT-4 for small children (Eldan and Li, 2023), under CDLA-Sharing-1.0"
)
NANOGPT = "nanoGPT's character model has 1.470 with 10.65 M parameters"
MEMORISED = 200  # characters: a longer run in common with the training text is named on the card
READING = {  # the figures of train.judge, and how they are called
    "known_words": "words that occur in the training text",
    "distinct_1": "different words",
    "distinct_2": "different pairs of words",
    "distinct_3": "different triples of words",
    "closed_quotes": "lines that close their quotes",
    "ended": f"stories that end by themselves within {LONGEST:,} characters",
    "name_returns": "a name of the first sentence returns in the last third",
    "characters": "characters in a story, mean",
    "copied_median": "longest run copied from the training text, characters: median",
    "copied_worst": "the same: worst",
}


def metrics(run: Run, name: str, figures: dict[str, Any], seconds: float, command: str) -> dict[str, Any]:
    """metrics.json: the figures of a finished run, and what is needed to get them again."""
    last = run.log[-1]
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
        "seed": run.config.seed,
        "preset": run.config.preset,
        "data": run.text.report | named(run),
        "command": command,
        "commit": run.commit,
        **({"best_step": run.best_step} if run.best is not None else {}),
        **({"prompts": list(PROMPTS[voice])} if (voice := voice_of(run.text.report)) else {}),
        **environment(),
    }


def named(run: Run) -> dict[str, Any]:
    """What the texts of a run are called on its card."""
    names: dict[str, Any] = {"name": "/".join(Path(run.config.data).parts[-2:])}
    if run.config.replay:
        about = {"name": "/".join(Path(run.config.replay).parts[-2:]), "share": run.config.replay_share}
        names["replay"] = run.text.report["replay"] | about
    return names


def origin(storyteller: Storyteller) -> dict[str, Any]:
    """What a card says of a model that another one began as or learned from."""
    return {
        "name": storyteller.name,
        "data": storyteller.metrics.get("data", {}).get("name"),
        "tinystories": learned_tinystories(storyteller.metrics),
        "weights_sha256": storyteller.hashes["model.safetensors"],
    }


def is_tinystories(text: dict[str, Any]) -> bool:
    """Whether a text that was trained on is TinyStories, by what it holds or by the name that it was fetched by."""
    return text["name"] in TINYSTORIES or any(file["sha256"] == SOME_TINYSTORIES for file in text["sources"])


def voice_of(text: dict[str, Any]) -> str | None:
    """The voice that a text speaks in, where PROMPTS has some for it."""
    if any(file["sha256"] == TINY_SHAKESPEARE for file in text["sources"]):
        return "shakespeare"
    held_out = text.get("tales", {}).get("held_out", [])
    return "panchatantra" if any(title.lower().startswith("the merchant of seri") for title in held_out) else None


def environment() -> dict[str, Any]:
    """What besides settings and data decides about every bit of the weights."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    for package in ("safetensors", "onnx", "onnxruntime"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    machine = {"platform": platform.platform(), "cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count()}
    return {"versions": versions, "environment": machine}


def commit() -> str | None:
    """The commit of the code that ran, with "+" behind it where files differed; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command, quiet = ["git", *arguments], subprocess.DEVNULL  # git complains in the language of the locale
        run = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=quiet, check=True)
        return run.stdout.decode(errors="replace").strip()

    try:
        changed = git("status", "--porcelain", "--", "../model", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def sample(network: nn.Module, vocab: Vocab, prompt: str) -> str:
    """The story on the card: told by the finished network from a prompt and a fixed seed."""
    return prompt + "".join(tell(TorchDecoder(network), vocab, prompt, SAMPLE))


def card(metrics: dict[str, Any], network: nn.Module, vocab: Vocab) -> str:
    """README.md of an artifact: a model card for the Hub, made of metrics.json and a story told by the network."""
    shape, data, figures = network.config, metrics["data"], metrics["evaluation"]
    trained = data["train"]
    stories = f" in {trained['stories']:,} stories" if "stories" in trained else ""
    prompt = metrics.get("prompts", [SAMPLE_PROMPT])[0]
    rows = besides(metrics, shape.context)
    origin = f", tuned from {metrics['base']['name']}" if "base" in metrics else ""
    datasets = "datasets:\n- roneneldan/TinyStories\n" if learned_tinystories(metrics) else ""
    return f"""---
license: mit
language: en
library_name: pytorch
pipeline_tag: text-generation
tags:
- character-level
- gpt
- from-scratch
{datasets}model-index:
- name: {json.dumps(metrics["name"])}
  results:
  - task:
      type: text-generation
    dataset:
      name: {json.dumps(figures["data"])}
      type: text
    metrics:
    - type: nats_per_character
      value: {metrics["nats_per_character"]}
    - type: bits_per_character
      value: {metrics["bits_per_character"]}
---

# {metrics["name"]}

A character-level GPT of {metrics["parameters"]:,} parameters, trained from scratch{origin}.

| | |
|---|---|
| nats per character | {metrics["nats_per_character"]:.4f} on {scored(figures)} |
| bits per character | {metrics["bits_per_character"]:.4f} |
{rows}| architecture | {shape.architecture}: {shape.layers} layers, {shape.heads} heads, width {shape.width}, \
hidden {shape.hidden_width}, context {shape.context}, {len(vocab)} symbols |
| trained on | {data["name"]}: {trained["characters"]:,} characters{stories} |
| seen | {metrics["characters_seen"]:,} characters in {metrics["steps"]:,} steps |
| took | {metrics["seconds"] / 60:.0f} minutes on {metrics["device"]}, {metrics["precision"]} |
| made by | `{metrics["command"]}` |

Each held-out story is scored symbol by symbol, its closing end mark included where the vocabulary has one, in windows
of the context that advance by half a context; the sum of nats is divided by the number of symbols.

{reading(metrics)}## A story

Prompt {json.dumps(prompt)}, temperature {SAMPLE.temperature}, seed {SAMPLE.seed}, at most {SAMPLE.length} characters:

```
{sample(network, vocab, prompt)}
```

## Use

```
python -m model {shlex.quote(prompt)} --model artifacts/{metrics["name"]} --seed 7
```

## Data and licence

{source(metrics)}

## Limits

It writes English in the manner of its training text and knows nothing else. It is small: names change, plots drift, and
what it says is not true. It is meant for fiction, for fun and for learning how such a model works; it knows no facts.
Nothing filters what it writes.
"""


def besides(metrics: dict[str, Any], context: int) -> str:
    """The rows of a card for what only some runs measure."""
    rows = ""
    if windows := metrics.get("windows"):
        over = f"{windows['batches']} random batches of {windows['batch_size']} windows of {context}"
        rows += f"| val loss, nanoGPT's rule | {windows['nats_per_character']:.4f}: {over} |\n"
    if base := metrics.get("base"):
        rows += f"| tuned from | {base['name']} ({base['data']}): {base['nats_per_character']:.4f} on the same text |\n"
    return rows


def scored(figures: dict[str, Any]) -> str:
    """What a figure was measured on; a single text is no story."""
    return f"{figures['stories']:,} stories of {figures['data']}" if figures["stories"] > 1 else figures["data"]


def source(metrics: dict[str, Any]) -> str:
    """What is known of the training text: whose it is, how much of it was used, under which licence."""
    data = metrics["data"]
    millions = data["train"]["characters"] / 1e6
    if is_tinystories(data):
        share = millions * 1e6 / TINYSTORIES_CHARACTERS
        part = "under 1%" if share < 0.01 else f"{share:.0%}"
        text = f"{millions:,.1f} million characters of TinyStories, {part} of its training text: {TINYSTORIES_LICENCE}."
    elif voice_of(data) == "shakespeare":
        text = f"Tiny Shakespeare, {millions:,.1f} million characters of his plays, in the public domain."
    elif "tales" in data:
        books = ", ".join(file["file"] for file in data["tales"]["books"])
        text = f"Tales out of {books}: {millions:,.1f} million characters. "
        if voice_of(data):
            text += "Those books are in the public domain, Ryder's of 1925 in the United States."
        else:
            text += "Their licence is that of the books."
    else:
        text = f"{data['name']}, {millions:,.1f} million characters; its licence is that of the text."
    if base := metrics.get("base"):
        text += f" It was tuned from {base['name']}, which learned from {base['data']}."
    if teacher := metrics.get("teacher"):
        text += (
            f" Half of its loss came from the predictions of {teacher['name']}, which learned from {teacher['data']}."
        )
    if replay := data.get("replay"):
        text += f" So as not to forget it, {replay['share']:.0%} of the windows came from {replay['name']}."
    if not is_tinystories(data) and learned_tinystories(metrics):
        text += f" That is TinyStories: {TINYSTORIES_LICENCE}."
    return f"{text} None of the text is in this repository; the weights are under the MIT licence."


def learned_tinystories(metrics: dict[str, Any]) -> bool:
    """Whether a model learned from TinyStories: of itself, to replay it, or through a model that it came from."""
    data = metrics.get("data", {})
    texts = [text for text in (data, data.get("replay")) if text]
    others = [metrics.get(name, {}) for name in ("base", "teacher")]
    return any(map(is_tinystories, texts)) or any(other.get("tinystories", False) for other in others)


def reading(metrics: dict[str, Any]) -> str:
    """The part of a card that says how told stories compare with real ones, where that was measured."""
    figures = metrics.get("stories")
    if not figures:
        return ""
    told, real, sampling = figures["told"], figures["held_out"], figures["sampling"]
    rows = [f"| {name} | {_figure(told[key])} | {_figure(real[key])} |" for key, name in READING.items()]
    copied = told["copied_worst"]
    memorised = f"\nOne told story repeats {copied} characters of the training text word for word.\n"
    settings = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in sampling.items())
    return (
        f"## How its stories read\n\n{told['stories']} told stories ({settings}) beside {real['stories']} of "
        f"{figures['data']}:\n\n| | told | real |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n{memorised if copied > MEMORISED else ''}\n"
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def results(artifacts: Path, runs: Path) -> dict[str, str]:
    """The tables of the README by the name of their block, made of the metrics.json of artifacts and of other seeds."""
    every = sorted(map(_read_metrics, artifacts.glob("[!.]*/metrics.json")), key=lambda m: m["nats_per_character"])
    models = [m for m in every if is_tinystories(m["data"])]
    rows = [
        "| model | parameters | nats per character | first 500 stories | characters seen | training |",
        "|---|---|---|---|---|---|",
    ]
    for m in models:
        figures = m["evaluation"]
        first = f"{figures['first_500']:.3f}" if "first_500" in figures else ""
        rows.append(
            f"| [{m['name']}](artifacts/{m['name']}) | {m['parameters']:,} | {m['nats_per_character']:.3f} | {first} "
            f"| {m['characters_seen'] / 1e6:,.1f} M | {m['seconds'] / 60:.0f} min, {m['device']} |"
        )
    seeds = [
        "| recipe | seed 1 | seed 2 | seed 3 | mean train | mean val | the original: train / val |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, original in ORIGINAL.items():
        three = [artifacts / name, runs / f"{name}-seed2", runs / f"{name}-seed3"]
        if all((folder / "metrics.json").exists() for folder in three):
            metrics = [_read_metrics(folder / "metrics.json") for folder in three]
            train, val = (sum(m[key] for m in metrics) / 3 for key in ("train_loss", "val_loss"))
            each = " | ".join(f"{m['val_loss']:.4f}" for m in metrics)
            seeds.append(f"| `{name}` | {each} | {train:.4f} | **{val:.4f}** | {original[0]:.4f} / {original[1]:.4f} |")
    return {"results": "\n".join(rows), "seeds": "\n".join(seeds), "stories": _readings(models)} | {
        "voices": _voices([m for m in every if m not in models], runs)
    }


def _voices(models: Sequence[dict[str, Any]], runs: Path) -> str:
    """The models of other texts, each measured on a part of its own text that it did not see, and their other seeds."""
    if not models:
        return "None has been trained yet."
    lines = [
        "| model | parameters | held-out text | nats per character | beside | TinyStories, first 100 stories |",
        "|---|---|---|---|---|---|",
    ]
    for m in models:
        beside = []
        if windows := m.get("windows"):
            beside.append(f"{windows['nats_per_character']:.3f} by nanoGPT's rule, where {NANOGPT}")
        if base := m.get("base"):
            beside.append(f"{base['nats_per_character']:.3f}: {base['name']}, untuned")
        other = m.get("others", {}).get("valid.txt", {})
        seeds = [
            _read_metrics(path)["nats_per_character"] for path in sorted(runs.glob(f"{m['name']}-seed*/metrics.json"))
        ]
        also = f" (other seeds: {', '.join(f'{nats:.3f}' for nats in seeds)})" if seeds else ""
        kept = f"{other['nats_per_character']:.3f}" if other.get("stories") == 100 else ""
        lines.append(
            f"| [{m['name']}](artifacts/{m['name']}) | {m['parameters']:,} | {m['evaluation']['data']} "
            f"| {m['nats_per_character']:.3f}{also} | {'; '.join(beside)} | {kept} |"
        )
    return "\n".join(lines)


def _readings(models: Sequence[dict[str, Any]]) -> str:
    """How the stories of every model that was judged read, beside real ones."""
    judged = [m for m in models if "stories" in m]
    if not judged:
        return "No model has been judged yet."
    names = ["real stories", *(m["name"] for m in judged)]
    columns = [judged[0]["stories"]["held_out"], *(m["stories"]["told"] for m in judged)]
    lines = [
        f"| {name} | " + " | ".join(_figure(column[key]) for column in columns) + " |" for key, name in READING.items()
    ]
    return "\n".join([f"| share or number | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *lines])


def told(folder: Path) -> str:
    """One prompt told by every artifact in `folder` at one seed, the best model first."""
    parts = []
    for storyteller in find(folder)[0]:
        story = SAMPLE_PROMPT + "".join(storyteller.tell(SAMPLE_PROMPT, TOLD))
        lines = textwrap.fill(story, 110, replace_whitespace=False).splitlines()
        parts.append(f"**{storyteller.name}**\n\n" + "\n".join(f"> {line}" if line else ">" for line in lines))
    return "\n\n".join(parts)


def fill(text: str, blocks: dict[str, str]) -> str:
    """`text` with what stands between <!-- name --> and <!-- /name --> replaced by the block of that name."""
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"the text has no block {begin} ... {end}")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n{block}\n{end}{rest.split(end, 1)[1]}"
    return text


def _read_metrics(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    root = Path(__file__).parent.parent
    readme = root / "README.md"
    blocks = results(root / "artifacts", root / "docs" / "runs") | {"told": told(root / "artifacts")}
    text = fill(readme.read_text(encoding="utf-8"), blocks)
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
