"""What a run leaves to read: metrics and the model card; python -m train.report renews the README's tables."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from model.decoder import TorchDecoder
from model.sampling import Sampling
from model.storyteller import tell
from model.vocab import Vocab
from train.device import device_name

if TYPE_CHECKING:
    from train.loop import Run

ORIGINAL = {"classic": (1.3293, 1.3342), "classic-onecycle": (1.1208, 1.1370)}  # its train and val loss
SAMPLE = Sampling(length=600, temperature=0.8, seed=7)
SAMPLE_PROMPT = "Once upon a time"


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
        "steps": run.step,
        "characters_seen": run.characters,
        "seconds": seconds,
        "device": (f"{run.ranks.count} x " if run.ranks.count > 1 else "") + device_name(run.device),
        "threads": torch.get_num_threads(),
        "precision": run.precision,
        "seed": run.config.seed,
        "preset": run.config.preset,
        "data": run.text.report | {"name": "/".join(Path(run.config.data).parts[-2:])},
        "command": command,
        "commit": run.commit,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def commit() -> str | None:
    """The commit of the code that ran, with "+" behind it where files differed; None outside a git checkout."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "../model", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def sample(network: nn.Module, vocab: Vocab) -> str:
    """The story on the card: told by the finished network from a fixed prompt and seed."""
    return SAMPLE_PROMPT + "".join(tell(TorchDecoder(network), vocab, SAMPLE_PROMPT, SAMPLE))


def card(metrics: dict[str, Any], network: nn.Module, vocab: Vocab) -> str:
    """README.md of an artifact: a model card for the Hub, made of metrics.json and a story told by the network."""
    shape, data, figures = network.config, metrics["data"], metrics["evaluation"]
    trained = data["train"]
    stories = f" in {trained['stories']:,} stories" if "stories" in trained else ""
    datasets = "datasets:\n- roneneldan/TinyStories\n" if "tinystories" in data["name"].lower() else ""
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

A character-level GPT of {metrics["parameters"]:,} parameters, trained from scratch.

| | |
|---|---|
| nats per character | {metrics["nats_per_character"]:.4f} on {figures["stories"]:,} stories of {figures["data"]} |
| bits per character | {metrics["bits_per_character"]:.4f} |
| architecture | {shape.architecture}: {shape.layers} layers, {shape.heads} heads, width {shape.width}, \
hidden {shape.hidden_width}, context {shape.context}, {len(vocab)} symbols |
| trained on | {data["name"]}: {trained["characters"]:,} characters{stories} |
| seen | {metrics["characters_seen"]:,} characters in {metrics["steps"]:,} steps |
| took | {metrics["seconds"] / 60:.0f} minutes on {metrics["device"]}, {metrics["precision"]} |
| made by | `{metrics["command"]}` |

Each held-out story is scored symbol by symbol, its closing end mark included where the vocabulary has one, in windows
of the context that advance by half a context; the sum of nats is divided by the number of symbols.

## A story

Prompt "{SAMPLE_PROMPT}", temperature {SAMPLE.temperature}, seed {SAMPLE.seed}, at most {SAMPLE.length} characters:

```
{sample(network, vocab)}
```

## Use

```
python -m model "{SAMPLE_PROMPT}" --model artifacts/{metrics["name"]} --seed 7
```

## Limits

It writes English in the manner of its training text and knows nothing else. It is small: names change, plots drift, and
what it says is not true. Nothing filters what it writes.
"""


def results(artifacts: Path, runs: Path) -> dict[str, str]:
    """The tables of the README by the name of their block, made of the metrics.json of artifacts and of other seeds."""
    models = sorted(map(_read_metrics, artifacts.glob("[!.]*/metrics.json")), key=lambda m: m["nats_per_character"])
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
    return {"results": "\n".join(rows), "seeds": "\n".join(seeds)}


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
    text = fill(readme.read_text(encoding="utf-8"), results(root / "artifacts", root / "docs" / "runs"))
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
