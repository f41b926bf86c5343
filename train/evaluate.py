"""Nats per character of held-out stories: python -m train.evaluate artifacts/pocket --data FILE.

Shapes: W windows in a batch, T their length.
"""

from __future__ import annotations

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import model
from model.artifacts import add_figures, utf8_safe
from model.command import path, run_command
from model.sampling import USUAL
from model.storyteller import Storyteller, windows
from train.device import pick_device
from train.distributed import ALONE, Ranks
from train.flags import Parser
from train.held_out import sequences_of, texts_of
from train.judge import Judge, Told, tell_many
from train.report import card, sample
from train.text.corpus import CorpusError
from train.text.sources import held_out_files, sources

FIRSTS = 100, 500  # the first N stories have a separate figure
TOLERANCE = 0.002  # nats per character by which two machines may differ on the same weights
TOLD = "temperature", "top_k", "top_p", "min_p", "drafts", "beams"  # sampling settings of the stories that are judged
IGNORE = -100  # the target of a position that is not scored


@torch.inference_mode()
def score(
    network: nn.Module,
    sequences: Sequence[Sequence[int]],
    *,
    context: int | None = None,
    batch_characters: int = 32_768,
) -> tuple[np.ndarray, np.ndarray]:
    """Nats (float64) and the number of scored symbols (int64) for every sequence, by the rule of the README.

    The first symbol of a sequence is given. Each other symbol is scored once, in windows of `context` symbols (default:
    the network's context) that advance by half a context. Windows of similar length share a batch. Padding follows the
    last symbol, so a causal network cannot see it.
    """
    context = context or network.config.context
    device = next(network.parameters()).device
    jobs = [
        (index, start, stop, first)
        for index, ids in enumerate(sequences)
        for start, stop, first in windows(len(ids) - 1, context)
    ]
    jobs.sort(key=lambda job: job[1] - job[2])  # longest windows first, so that a lack of memory shows at once
    nats = np.zeros(len(sequences))
    was_training = network.training
    network.eval()
    position = 0
    while position < len(jobs):
        T = jobs[position][2] - jobs[position][1]
        batch = jobs[position : position + max(1, batch_characters // T)]
        position += len(batch)
        inputs = np.zeros((len(batch), T), dtype=np.int64)
        targets = np.full((len(batch), T), IGNORE, dtype=np.int64)
        for row, (index, start, stop, first) in enumerate(batch):
            inputs[row, : stop - start] = sequences[index][start:stop]
            targets[row, first - start : stop - start] = sequences[index][first + 1 : stop + 1]
        logits = network(torch.from_numpy(inputs).to(device))  # (W, T, V)
        losses = F.cross_entropy(
            logits.transpose(1, 2), torch.from_numpy(targets).to(device), ignore_index=IGNORE, reduction="none"
        )
        np.add.at(nats, [job[0] for job in batch], losses.double().sum(1).cpu().numpy())
    network.train(was_training)
    return nats, np.array([len(ids) - 1 for ids in sequences])


def evaluation(
    network: nn.Module,
    sequences: Sequence[Sequence[int]],
    data: str,
    ranks: Ranks = ALONE,
    seconds: float | None = None,
) -> dict[str, Any]:
    """The figures of a model card: nats and bits per character of all sequences, and of the first 100 and 500.

    With `seconds`, sequences are scored in groups of 100, and no group starts after that time.
    """
    began, size = time.perf_counter(), len(sequences) if seconds is None else FIRSTS[0]
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(sequences), size):
        if parts and seconds is not None and ranks.broadcast(time.perf_counter() - began >= seconds):
            break
        parts.append(ranks.sharded(score)(network, sequences[start : start + size]))
    nats, symbols = (np.concatenate(part) for part in zip(*parts, strict=True))
    per_character = float(nats.sum() / symbols.sum())
    firsts = {f"first_{n}": round(float(nats[:n].sum() / symbols[:n].sum()), 5) for n in FIRSTS if n < len(nats)}
    return {
        "data": data,
        "stories": len(nats),
        "symbols": int(symbols.sum()),
        "nats_per_character": round(per_character, 5),
        "bits_per_character": round(per_character / math.log(2), 5),
        **firsts,
        "seconds": round(time.perf_counter() - began, 1),
    }


def recorded_nats(metrics: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    """The nats per character in metrics.json for the same stories as `result`. Raises ValueError if there are none."""
    figures = recorded_figures(metrics, result["data"])
    by_count = {figures["stories"]: figures["nats_per_character"]}
    by_count |= {n: figures[f"first_{n}"] for n in FIRSTS if f"first_{n}" in figures}
    if result["stories"] not in by_count:
        raise ValueError(
            f"{metrics['name']} has no recorded figure for {result['stories']} stories of {result['data']}: "
            f"it has figures for {', '.join(map(str, sorted(by_count)))}"
        )
    return by_count[result["stories"]]


def recorded_figures(metrics: Mapping[str, Any], data: str) -> Mapping[str, Any]:
    """The figures in metrics.json for the held-out text with this name; empty if there are none."""
    own = metrics["evaluation"]
    return own if own["data"] == data else metrics.get("others", {}).get(data, {})


def record(storyteller: Storyteller, figures: dict[str, Any]) -> None:
    """Adds figures to the metrics.json of an artifact, and updates its model card."""
    metrics = dict(storyteller.metrics) | figures
    story = sample(metrics, storyteller.network, storyteller.vocab)
    add_figures(storyteller.folder, figures, card(metrics, storyteller.config, story))


def text_of(storyteller: Storyteller) -> Mapping[str, Any]:
    """The report of the text that a model was trained on, which says how that was cleaned."""
    found = storyteller.metrics.get("data")
    return found if isinstance(found, dict) else {}


def judge_stories(storyteller: Storyteller, args: Namespace) -> dict[str, Any]:
    """The figures of N told stories and of N held-out stories. Raises CorpusError if fewer than N are held out."""
    held_out = texts_of(held_out_files(args.data), text_of(storyteller), storyteller.vocab)
    real = [Told(story, True) for story in islice(held_out, args.stories)]
    if len(real) < args.stories:
        raise CorpusError(
            f"{args.data} holds {len(real)} stories, fewer than --stories {args.stories}: give a lower --stories"
        )
    judge = Judge(texts_of(sources([args.train]).train, text_of(storyteller), storyteller.vocab))
    if not judge.words:
        raise CorpusError(f"{args.train} holds no words: give the text that the artifact was trained on")
    sampling = replace(USUAL, **{name: getattr(args, name) for name in TOLD})
    return {
        "sampling": {name: getattr(sampling, name) for name in TOLD},
        "data": args.name,
        "told": judge.figures(tell_many(storyteller, args.stories, sampling)),
        "held_out": judge.figures(real),
    }


def score_file(storyteller: Storyteller, args: Namespace) -> dict[str, Any]:
    """The figures of the first `args.first` held-out stories (default: all). Raises CorpusError if there are none."""
    sequences = sequences_of(args.data, storyteller.vocab, text_of(storyteller), args.first)
    if not sequences:
        raise CorpusError(f"{args.data} holds no story to score")
    return evaluation(storyteller.network.to(pick_device(args.device)), sequences, args.name)


def parse_args(argv: Sequence[str] | None) -> Namespace:
    parser = Parser(prog="python -m train.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", type=path, nargs="+", metavar="artifact", help="a folder such as artifacts/pocket")
    parser.add_argument(
        "--data", type=path, required=True, metavar="FILE", help="held-out stories, which were not trained on"
    )
    parser.add_argument("--first", type=int, metavar="N", help="score only the first N stories, which is quicker")
    parser.add_argument("--check", action="store_true", help=f"exit 1 if metrics.json differs by more than {TOLERANCE}")
    parser.add_argument("--record", action="store_true", help="add the figures to metrics.json and the model card")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    told = parser.add_argument_group("judge told stories instead")
    told.add_argument("--stories", type=int, metavar="N", help="tell N stories, and compare them with N held-out ones")
    told.add_argument("--train", type=path, metavar="FILE", help="the stories that the artifact was trained on")
    for name in TOLD:
        default = getattr(USUAL, name)
        told.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, metavar="X", help="(%(default)s)"
        )
    args = parser.parse_args(argv)
    args.name = utf8_safe(args.data.name)
    if args.stories is not None and (args.stories < 1 or args.train is None):
        parser.error(
            "--stories needs a number of at least 1, and --train FILE, the text that the artifact was trained on"
        )
    if args.first is not None and args.first < 1:
        parser.error(f"--first ({args.first}) must be at least 1")
    if args.check and (args.record or args.stories):
        parser.error("--check compares with recorded figures: give it without --record and --stories")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    off, checked = [], 0
    try:
        pick_device(args.device)  # before the texts are read, so that a wrong device is refused at once
        storytellers = [model.load(artifact) for artifact in args.artifacts]  # all, before the first one is measured
        sources([it for it in (args.data, args.train) if it])  # are they there?
        for storyteller in storytellers:
            metrics = storyteller.metrics
            if args.check and not recorded_figures(metrics, args.name):
                theirs = metrics["evaluation"]["data"]
                print(f"{storyteller.name} not checked: its recorded figures are for {theirs}", file=sys.stderr)
                continue
            figures = judge_stories(storyteller, args) if args.stories else score_file(storyteller, args)
            line = {"artifact": storyteller.name, **figures}
            if args.check:
                checked += 1
                line["recorded"] = recorded_nats(metrics, figures)
                if abs(line["recorded"] - figures["nats_per_character"]) > TOLERANCE:
                    off.append(storyteller.name)
            print(json.dumps(line), flush=True)
            if args.record:  # once the figures are shown: a disk may be full
                others = metrics.get("others", {}) | {figures["data"]: figures}
                record(storyteller, {"stories": figures} if args.stories else {"others": others})
    except (ValueError, OSError) as error:  # ArtifactError and CorpusError are ValueErrors
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.check and not checked:
        print(f"error: no artifact has recorded figures for {args.name}", file=sys.stderr)
        return 2
    if off:
        print(f"differs from the recorded figure by more than {TOLERANCE}: {', '.join(off)}", file=sys.stderr)
    return int(bool(off))


if __name__ == "__main__":
    run_command(main)
