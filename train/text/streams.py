"""Writes clean stories as two encoded streams on disk, one for training and one for validation."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.vocab import END, Vocab, normalise, repair
from train.text.encoded import stories_in
from train.text.stories import CorpusError, clean, raw_stories

_EVERY = 20  # without a validation file, every 20th story is for validation
_MARK = b"\x7f"  # represents END while text is ASCII bytes: no clean text contains this byte
_LOWER = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
_NO_LETTERS = bytes(b for b in range(128) if not chr(b).isalnum())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to prepare, from which files, and how."""

    name: str
    files: list[Path]
    valid: list[Path]
    cleaning: str
    stories: int | None
    single: bool  # whether it is one text without stories
    vocab: Vocab | None = None  # that of the model to fine-tune; characters outside it are dropped
    tales: dict | None = None  # how the books were cut into tales
    excluded: tuple[np.ndarray, Vocab] | None = None  # a stream whose stories must not be in the training text


@dataclass
class Tally:
    """Counts what a preparation changes. A file that is read several times is counted the first time only."""

    bar: tqdm
    dropped: Counter[str] = field(default_factory=Counter)
    normalised: int = 0  # characters outside ASCII that were replaced by ASCII ones
    files: set[Path] = field(default_factory=set)

    def count(self, raw: str, cleaning: str) -> None:
        """Counts the characters of a raw text that cleaning replaces, and those that it drops."""
        text = raw if cleaning == "classic" else repair(raw)
        gone = (c for c in set(text) if not c.isascii() and (cleaning == "classic" or not normalise(c)))
        dropped = {c: text.count(c) for c in gone}
        self.dropped.update(dropped)
        self.normalised += sum(not c.isascii() for c in raw) - sum(dropped.values())


def write_stories(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin with end marks around the stories. Returns their counts. Raises CorpusError."""
    beginning = sum(1 for _ in islice(_read(plan, plan.files), _EVERY))
    if beginning == 0:
        raise CorpusError(f"{_name_of(plan.files)} holds no text")
    if beginning == 1 and not plan.valid:
        raise CorpusError(
            f"{_name_of(plan.files)} holds one story, but training and validation need at least two: "
            f"separate stories by lines {END}"
        )
    vocab = plan.vocab or Vocab.ascii()
    if vocab.end is None:
        raise CorpusError(
            f"{_name_of(plan.files)} holds stories, but the vocabulary to encode them in has no end mark: "
            "join them with --cleaning classic, or give a single text"
        )
    every = min(_EVERY, beginning)  # with fewer than 20 stories, the last one is for validation
    held_out = _story_digests(*plan.excluded) if plan.excluded else set()
    trained_on = array("Q")
    removed = 0

    def stories(files: list[Path], validating: bool) -> Iterator[bytes]:
        nonlocal removed
        yield _MARK
        for number, story in enumerate(_read(plan, files, tally), 1):
            if not plan.valid and (number % every == 0) != validating:
                continue
            digest = _story_digest(story)
            if validating:
                held_out.add(digest)
            elif digest in held_out:
                removed += 1
                continue
            else:
                trained_on.append(digest)
            yield story + _MARK

    validation = _write(folder / "valid.bin", stories(plan.valid or plan.files, validating=True), vocab)
    if not validation["characters"]:
        raise CorpusError(f"{_name_of(plan.valid)} holds no text")
    train = _write(folder / "train.bin", stories(plan.files, validating=False), vocab)
    if not trained_on:
        raise CorpusError(
            f"every story of {_name_of(plan.files)} is in the validation text too: none is left to train on"
        )
    train["removed_as_in_validation"] = removed
    train["repeated_stories"] = len(trained_on) - len(np.unique(np.frombuffer(trained_on, np.uint64)))
    for part in (train, validation):
        part["stories"] = part["symbols"] - part["characters"] - 1
    return {"train": train, "validation": validation, "vocabulary": vocab.itos}


def write_text(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin of one long text. Returns their counts. Raises CorpusError."""
    characters: set[int] = set()
    parts = []
    for files in filter(None, (plan.files, plan.valid)):
        found, length = set(), 0
        for text in _joined(plan, tally, files):
            found.update(text)
            length += len(text)
        if found <= set(b" \n") or length < 2:
            raise CorpusError(f"{_name_of(files)} holds no text")
        characters |= found
        parts.append((files, 0, length))
    if not plan.valid:
        cut = length * 9 // 10
        parts = [(plan.files, 0, cut), (plan.files, cut, length)]
    vocab = plan.vocab or (Vocab.from_text(map(chr, characters)) if plan.cleaning == "classic" else Vocab.ascii())
    end = [] if vocab.end is None else [_MARK]
    train, validation = (
        _write(folder / name, chain(end, _joined(plan, tally, *part), end), vocab)
        for name, part in zip(("train.bin", "valid.bin"), parts, strict=True)
    )
    return {"train": train, "validation": validation, "vocabulary": vocab.itos}


def _joined(plan: Plan, tally: Tally, files: list[Path], start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The characters from `start` to `stop` of one long text: a single text, or stories joined with blanks."""
    at = 0
    for text in _read(plan, files, tally):
        piece = b" " + text if at and not plan.single else text
        yield piece[max(0, start - at) : None if stop is None else max(0, stop - at)]
        at += len(piece)


def _read(plan: Plan, files: list[Path], tally: Tally | None = None) -> Iterator[bytes]:
    """The clean stories of files as ASCII bytes, without the empty ones, or the pieces of a single text."""
    return islice(_texts(plan, files, tally), plan.stories if files is plan.files else None)


def _texts(plan: Plan, files: list[Path], tally: Tally | None) -> Iterator[bytes]:
    for path in files:
        counting = tally if tally and path not in tally.files else None
        if tally:
            tally.files.add(path)
        for raw in raw_stories(path, not plan.single, tally.bar.update if tally else int):
            if counting and not raw.isascii():
                counting.count(raw, plan.cleaning)
            text = clean(raw, plan.cleaning)
            if plan.vocab:
                text = _restricted(text, plan.vocab, counting)
            if not plan.single:
                text = text.strip(" \n")
            elif plan.cleaning == "story":
                text = text.strip(" \n") + "\n"  # a piece consists of whole lines
            if text:
                yield text.encode("ascii")


def _restricted(text: str, vocab: Vocab, tally: Tally | None) -> str:
    """A clean text with the symbols of `vocab` only. A missing newline becomes a blank, others are dropped."""
    if "\n" not in vocab.stoi:
        text = text.replace("\n", " ")
    unknown = set(text) - vocab.stoi.keys()
    if tally:
        tally.dropped.update({c: text.count(c) for c in unknown})
    return text.translate(dict.fromkeys(map(ord, unknown))) if unknown else text


def _story_digest(story: bytes) -> int:
    """A 64-bit digest of the letters and digits of a story. Case and punctuation do not change it."""
    return int.from_bytes(hashlib.blake2b(story.translate(_LOWER, _NO_LETTERS), digest_size=8).digest())


def _story_digests(stream: np.ndarray, vocab: Vocab) -> set[int]:
    """The `_story_digest` of each story of an encoded stream; an empty set if the vocabulary has no end mark."""
    stories = stories_in(stream, vocab) if vocab.end is not None else []
    return {_story_digest(vocab.decode(story.tolist()).encode("ascii", "ignore")) for story in stories}


def _write(path: Path, texts: Iterable[bytes], vocab: Vocab) -> dict[str, int]:
    """Writes ASCII texts as ids and returns their counts. `_MARK` becomes the end mark, which is not a character."""
    table = bytearray(256)
    for symbol, i in vocab.stoi.items():
        table[ord(_MARK if symbol == END else symbol)] = i
    symbols = marks = 0
    with path.open("wb") as file:
        for text in texts:
            symbols += file.write(text.translate(table))
            marks += text.count(_MARK)
    return {"characters": symbols - marks, "symbols": symbols}


def _name_of(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
