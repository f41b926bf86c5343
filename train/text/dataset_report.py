"""The dataset report, printed before training: the size of a corpus, what cleaning changed, and warnings."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

from model.vocab import END, visible
from train.presets import TrainConfig
from train.text.corpus import Corpus
from train.text.encoded import symbol_counts
from train.text.losses import LITTLE, dropped, share_dropped
from train.text.scripts import script_of
from train.writable import on_one_line

SHOWN, RARE = 12, 40  # characters that are listed with their counts, and rare ones without
FEW = 10_000  # characters: the loss of a smaller validation text says little
MOST_PASSES = 40  # over a text; with more, the model memorises it
CHANGES = {  # other counts of `losses`, and what they are called
    "tabs": "tabs converted to blanks",
    "squeezed": "blanks and line ends removed",
    "empty": "records or stories without any text left out",
}
EARLY_STOPPING = "--patience 3 --eval-every 200"


def dataset_report(text: Corpus, config: TrainConfig) -> list[str]:
    """Lines that describe a corpus, and warnings if it is too small for the run."""
    report = text.report
    lines = [
        f"text: {text.name}, cleaned as {report['cleaning']}: {_amount(report['train'])} to train on, "
        f"{_amount(report['validation'])} to validate"
    ]
    lines += [text.files] if text.files else []
    if "tales" in report:
        left_out = ", ".join(f"{kind} {count:,}" for kind, count in report["tales"]["left_out"].items() if count)
        lines.append(f"books: {len(report['tales']['books'])}; characters left out of them: {left_out or 'none'}")
    if replay := report.get("replay"):
        lost = sum(replay["dropped_characters"].values())
        lines.append(
            f"replayed: {replay['name']}, {_amount(replay['train'])}, {config.replay_share:.0%} of the windows; "
            f"{replay['train'].get('removed_as_in_validation', 0):,} stories removed (in the validation text); "
            f"{lost:,} characters dropped"
        )
    found = symbol_counts(text.train, len(text.vocab)).tolist()
    occur = (+Counter(dict(zip(text.vocab.itos, found, strict=True)))).most_common()
    lines.append(f"characters: {len(occur):,} of the {len(found):,} symbols occur: {_counted(occur)} ...")
    if rare := [_shown(symbol) for symbol, count in occur[SHOWN:] if count < SHOWN]:
        more = f" and {len(rare) - RARE:,} more" if len(rare) > RARE else ""
        lines.append(f"under {SHOWN} times each: {' '.join(rare[:RARE])}{more}")
    if not text.vocab.is_ascii:
        lines.append(_vocabulary(text, config))
    lost = report["dropped_characters"]
    read = {name: sum(report["read"][part][name] for part in report["read"]) for name in CHANGES}
    changes = [
        *([f"{report['normalised_characters']:,} characters converted to ASCII"] if text.vocab.is_ascii else []),
        f"{sum(lost.values()):,} dropped" + (f" ({_counted(list(lost.items()))})" if lost else ""),
        *(f"{read[name]:,} {what}" for name, what in CHANGES.items() if read[name]),
    ]
    if "stories" in report["train"]:
        changes.append(f"{report['train']['repeated_stories']:,} stories repeat an earlier one")
        changes.append(f"{report['train']['removed_as_in_validation']:,} removed (in the validation text)")
    lines.append("cleaning: " + ", ".join(changes))
    return on_one_line(lines + [f"warning: {warning}" for warning in _warnings(text, config)])


def _amount(part: dict[str, Any]) -> str:
    stories = f"{part['stories']:,} stories, " if "stories" in part else ""
    return f"{stories}{part['characters']:,} characters"


def _counted(characters: list[tuple[str, int]]) -> str:
    return " ".join(f"{_shown(character)} {count:,}" for character, count in characters[:SHOWN])


def _shown(symbol: str) -> str:
    return repr(symbol if symbol.isascii() else visible(symbol))


def _parameters(text: Corpus, config: TrainConfig) -> int:
    shapes = replace(config.model, vocab_size=len(text.vocab)).shapes()
    return sum(math.prod(size) for size in shapes.values())


def _vocabulary(text: Corpus, config: TrainConfig) -> str:
    """The scripts of a vocabulary that was made of a text, and what its embedding costs."""
    symbols, width, parameters = len(text.vocab), config.model.width, _parameters(text, config)
    counts = Counter(script_of(symbol) for symbol in text.vocab.itos if symbol != END)
    scripts = ", ".join(f"{script} {count:,}" for script, count in counts.most_common())
    return (
        f"vocabulary: {symbols:,} symbols ({scripts}), {8 * text.train.itemsize} bits each in the encoded text; their "
        f"embedding takes {symbols * width:,} of {parameters:,} parameters ({symbols * width / parameters:.0%})"
    )


def _warnings(text: Corpus, config: TrainConfig) -> list[str]:
    characters, shape, parameters = len(text.train), config.model, _parameters(text, config)
    found = _warnings_of_losses(text, config)
    if config.min_count > 1 and text.vocab.is_ascii:
        found.append(f"--min-count {config.min_count} changes nothing, as the vocabulary is ASCII: give --vocab text")
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


def _warnings_of_losses(text: Corpus, config: TrainConfig) -> list[str]:
    """Warnings of what cleaning took away, and of validation text that is trained on."""
    report, found = text.report, []
    parts = [(text.name, report["read"]["train"]), ("the validation text", report["read"]["validation"])]
    if replay := report.get("replay"):
        parts.append((replay["name"], replay["read"]["train"]))
    for name, read in parts:
        if share_dropped(read) > LITTLE:
            flag = "--grow-vocab" if config.init else "--vocab text" if text.vocab.is_ascii else "a lower --min-count"
            useless = config.grow_vocab or not (config.init or text.vocab.is_ascii or config.min_count > 1)
            found.append(f"{name}: {dropped(read)}; {'no model can learn them' if useless else f'{flag} keeps them'}")
    read = report["read"]["train"]
    if read["indented"] > LITTLE * read["lines"]:
        found.append(
            f"{read['indented']:,} of {read['lines']:,} lines began with blanks, which were removed: "
            "give --cleaning verbatim to keep them"
        )
    if report["in_both"] > LITTLE:
        found.append(
            f"{report['in_both']:.0%} of the passages of the validation text stand in the training text too: "
            "the loss on it is too low; give another text with --valid"
        )
    return found
