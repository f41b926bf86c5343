"""The text that a model is measured on: cleaned and parted as the text that it was trained on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.vocab import Vocab
from train.batches import Batches
from train.run import Run
from train.text.corpus import Corpus, CorpusError
from train.text.encoded import id_type, stories_in
from train.text.files import sha256
from train.text.losses import LITTLE, Losses, dropped, share_dropped
from train.text.overlap import require_apart, share_found
from train.text.reading import raw_texts
from train.text.sources import held_out_files, listed
from train.text.stories import clean, has_stories, stories_of


class HeldOut(NamedTuple):
    """What the end of a run measures on. It is read before the first step, so a file may change or go meanwhile."""

    sequences: list[Sequence[int]]  # the ids to score of each story, or of a single text
    name: str  # of the text, on the model card
    sha256: str  # models with the same value were scored on the same text
    windows: Batches | None  # of `--final-windows`


def held_out(run: Run) -> HeldOut:
    """Reads what the end of a run needs. Raises ValueError (also CorpusError) for a text that cannot be measured on."""
    config, text = run.config, run.text
    sources = [source["sha256"] for source in text.report["validation_sources"] or text.report["sources"]]
    if config.cleaning == "classic" and config.valid:  # the corpus validates on a part of its own
        path = Path(config.valid)
        sequences, name = sequences_of(path, text.vocab, text.report), path.name
        sources = [sha256(file) for file in held_out_files(path)]
        if not sequences:
            raise CorpusError(f"{path} holds no text to score the model on: give another --valid, or omit it")
        scored = np.concatenate([np.array(ids, id_type(text.vocab)) for ids in sequences])
        require_apart(share_found(scored, text.train, text.vocab), str(path), text.name)
    else:
        sequences, name = stories_in(text.valid, text.vocab), held_out_name(text, config.valid)
    windows = None
    if config.final_windows:
        size = {"context": config.model.context, "batch_size": 64, "device": run.device}
        windows = Batches(text.valid, seed=config.seed + 1, use="to validate on", **size)
    digest = sources[0] if len(sources) == 1 else hashlib.sha256("".join(sources).encode()).hexdigest()
    return HeldOut(sequences, name, digest, windows)


def held_out_name(text: Corpus, given: str | None) -> str:
    """The name of a corpus's validation text on the model card. `given` is the user's --valid, if any."""
    files = [source["file"] for source in text.report["validation_sources"]]
    if "tales" in text.report and not given:
        return f"{text.name} (the held-out tales)"
    return listed(files) or f"{text.name} (the part held out)"


def sequence(vocab: Vocab, story: str, losses: Losses) -> list[int]:
    """The ids to score for a clean story: the start symbol, the characters, and the end mark if there is one.

    `losses` counts the characters that the vocabulary lacks.
    """
    ids = [vocab.start, *vocab.encode(losses.restricted(story, vocab))]
    return ids if vocab.end is None else [*ids, vocab.end]


def sequences_of(path: Path, vocab: Vocab, data: Mapping[str, Any], first: int | None = None) -> list[list[int]]:
    """The ids to score for the first texts (default: all) of a file, or of the held-out files of a folder.

    A text of which the vocabulary has no character is left out. `data` is the report of the text that the model was
    trained on, as in its metrics.json. Prints a warning if much of what was read was dropped. Raises CorpusError if
    most of it was, and for a file that is not text.
    """
    losses = Losses()
    found = (sequence(vocab, text, losses) for text in texts_of(held_out_files(path), data, vocab, losses))
    sequences = list(islice((ids for ids in found if len(ids) > 1 + (vocab.end is not None)), first))
    losses.require_most_kept(str(path), f"the model learned {learned(vocab)}: give a text that is like its own")
    if share_dropped(read := losses.report()) > LITTLE:
        print(f"warning: {path}: {dropped(read)}; the model learned {learned(vocab)}", file=sys.stderr)
    return sequences


def learned(vocab: Vocab) -> str:
    """Which characters a model has learned, in words."""
    return "ASCII" if vocab == Vocab.ascii() else f"{len(vocab):,} symbols"


def texts_of(files: list[Path], data: Mapping[str, Any], vocab: Vocab, losses: Losses | None = None) -> Iterator[str]:
    """The texts of files, cleaned as a model's own text was: stories, or one text if both are single texts.

    Stories are cleaned as stories also for a classic model, whose own were joined. `losses` counts what is read.
    Raises CorpusError.
    """
    cleaning = data.get("cleaning", "story")
    if "train" not in data or "stories" in data["train"] or has_stories(files):
        return stories_of(files, "story" if cleaning == "classic" else cleaning, vocab, losses)
    pieces = []
    for raw in raw_texts(files[0], whole=False):
        if losses:
            losses.count(raw, cleaning, vocab)
        pieces.append(clean(raw, cleaning, vocab, whole=False))
    return filter(str.strip, ["".join(pieces)])
