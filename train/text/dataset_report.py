"""The dataset report, printed before training: the size of a corpus, what cleaning changed, and warnings."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from train.presets import TrainConfig
from train.text.corpus import Corpus
from train.text.encoded import symbol_counts

SHOWN = 12  # characters that are listed with their counts
FEW = 10_000  # characters: the loss of a smaller validation text says little
MOST_PASSES = 40  # over a text; with more, the model memorises it
EARLY_STOPPING = "--patience 3 --eval-every 200"


def dataset_report(text: Corpus, config: TrainConfig) -> list[str]:
    """Lines that describe a corpus, and warnings if it is too small for the run."""
    report = text.report
    lines = [
        f"text: {text.name}, cleaned as {report['cleaning']}: {_amount(report['train'])} to train on, "
        f"{_amount(report['validation'])} to validate"
    ]
    if "tales" in report:
        left_out = ", ".join(f"{kind} {count:,}" for kind, count in report["tales"]["left_out"].items() if count)
        lines.append(f"books: {len(report['tales']['books'])}; characters left out of them: {left_out or 'none'}")
    if replay := report.get("replay"):
        dropped = sum(replay["dropped_characters"].values())
        lines.append(
            f"replayed: {replay['name']}, {_amount(replay['train'])}, {config.replay_share:.0%} of the windows; "
            f"{replay['train'].get('removed_as_in_validation', 0):,} stories removed (in the validation text); "
            f"{dropped:,} characters dropped"
        )
    found = symbol_counts(text.train, len(text.vocab)).tolist()
    occur = (+Counter(dict(zip(text.vocab.itos, found, strict=True)))).most_common()
    lines.append(f"characters: {len(occur)} of the {len(found)} symbols occur: {_counted(occur)} ...")
    if rare := " ".join(repr(symbol) for symbol, count in occur[SHOWN:] if count < SHOWN):
        lines.append(f"under {SHOWN} times each: {rare}")
    dropped = report["dropped_characters"]
    changes = [
        f"{report.get('normalised_characters', 0):,} characters converted to ASCII",
        f"{sum(dropped.values()):,} dropped" + (f" ({_counted(list(dropped.items()))})" if dropped else ""),
    ]
    if "stories" in report["train"]:
        changes.append(f"{report['train']['repeated_stories']:,} stories repeat an earlier one")
        changes.append(f"{report['train']['removed_as_in_validation']:,} removed (in the validation text)")
    lines.append("cleaning: " + ", ".join(changes))
    return lines + [f"warning: {warning}" for warning in _warnings(text, config)]


def _amount(part: dict[str, Any]) -> str:
    stories = f"{part['stories']:,} stories, " if "stories" in part else ""
    return f"{stories}{part['characters']:,} characters"


def _counted(characters: list[tuple[str, int]]) -> str:
    return " ".join(f"{character!r} {count:,}" for character, count in characters[:SHOWN])


def _warnings(text: Corpus, config: TrainConfig) -> list[str]:
    characters, shape = len(text.train), config.model
    parameters = sum(math.prod(size) for size in shape.shapes().values())
    found = []
    if len(text.valid) < FEW:
        found.append(
            f"{len(text.valid):,} characters of validation text are few: the loss on it will fluctuate; "
            "give a file with --valid"
        )
    share = 1 - config.replay_share if config.replay else 1
    passes = share * (config.steps or 0) * config.accumulate * config.batch_size * shape.context / characters
    if passes > MOST_PASSES:
        found.append(
            f"{config.steps:,} steps read the text {passes:,.0f} times: the model will memorise it; give fewer --steps"
            + ("" if config.patience else f", or {EARLY_STOPPING} to stop early")
        )
    # A model that starts from --init knows English already, and one that stops early memorises little.
    if parameters > characters and not (shape.dropout or config.patience or config.init):
        found.append(
            f"{characters:,} characters are few for {parameters:,} parameters: give --dropout 0.2 "
            f"and {EARLY_STOPPING}, a smaller preset such as pocket, or a trained model with --init"
        )
    return found
