"""The text that a model is measured on: cleaned and parted as the text that it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.vocab import Vocab
from train.batches import Batches
from train.run import Run
from train.text.corpus import Corpus, CorpusError, read_stories
from train.text.encoded import stories_in
from train.text.files import sha256
from train.text.overlap import require_apart, share_found
from train.text.reading import raw_texts
from train.text.sources import held_out_files, listed
from train.text.stories import has_stories, plain, squeezed


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
        sequences, name = list(sequences_of(path, text.vocab, text.report)), path.name
        sources = [sha256(file) for file in held_out_files(path)]
        if not sequences:
            raise CorpusError(f"{path} holds no text to score the model on: give another --valid, or omit it")
        scored = np.concatenate([np.array(ids, np.uint8) for ids in sequences])
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


def sequence(vocab: Vocab, story: str) -> list[int]:
    """The ids to score for a story: the start symbol, the characters, and the end mark if the vocabulary has one."""
    ids = [vocab.start, *vocab.encode(vocab.fit(story)[0])]
    return ids if vocab.end is None else [*ids, vocab.end]


def sequences_of(path: Path, vocab: Vocab, data: Mapping[str, Any]) -> Iterator[list[int]]:
    """The ids to score for each text of a file or folder. A text of which the vocabulary has no character is left out.

    `data` is the report of the text that the model was trained on, as in its metrics.json. Raises CorpusError.
    """
    found = (sequence(vocab, text) for text in texts_of(path, data))
    return (ids for ids in found if len(ids) > 1 + (vocab.end is not None))


def texts_of(path: Path, data: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a file or folder, cleaned as a model's own text was: stories, or one text if both are single texts.

    Stories are cleaned as stories also for a classic model, whose own were joined. Raises CorpusError.
    """
    cleaning, files = data.get("cleaning", "story"), held_out_files(path)
    if "train" in data and "stories" not in data["train"] and not has_stories(files):
        pieces = (plain(raw, cleaning) for raw in raw_texts(files[0], whole=False))
        if cleaning == "story":
            pieces = (squeezed(piece).strip(" \n") + "\n" for piece in pieces)
        return iter(["".join(pieces)])
    return read_stories(path, "story" if cleaning == "classic" else cleaning)
