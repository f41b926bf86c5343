"""Writes clean stories as two encoded streams on disk, one for training and one for validation."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.vocab import END, Vocab
from train.text.alphabet import Alphabet, vocabulary
from train.text.encoded import id_type, letter_numbers
from train.text.losses import Losses
from train.text.overlap import require_apart, share_found
from train.text.reading import CorpusError, raw_texts
from train.text.stories import plain, squeezed, trimmed

STREAMS, DIGESTS = ("train.bin", "valid.bin"), "held-out.bin"  # the files of a prepared corpus
_EVERY = 20  # without a validation file, every 20th story is for validation
_MARK = "\x7f"  # represents END in clean text, which does not contain this character


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to prepare, from which files, and how."""

    name: str
    files: list[Path]
    valid: list[Path]
    cleaning: str
    stories: int | None
    single: bool  # whether it is one text without stories
    vocab: Vocab | None  # characters outside it are dropped; None: that of the text, which `alphabet` finds
    alphabet: Alphabet | None  # None: the vocabulary is that of a model
    tales: dict | None = None  # how the books were cut into tales
    excluded: np.ndarray | None = None  # the digests of stories that must not be in the training text

    @property
    def as_text(self) -> bool:
        """Whether the streams are one long text each."""
        return self.single or self.cleaning == "classic"

    @cached_property
    def drops(self) -> bool:
        """Whether a clean text may hold characters that the vocabulary lacks."""
        return self.vocab is not None and (self.cleaning == "classic" or self.vocab != Vocab.ascii())

    @property
    def advice(self) -> str:
        """What to do if most of the training text is dropped."""
        if self.alphabet is None:
            return f"the model's vocabulary has {len(self.vocab)} symbols: train without it, or give another text"
        if self.cleaning == "classic":
            return "classic keeps ASCII only: give another text, or --cleaning story and a preset such as pocket"
        if self.alphabet.kind == "ascii":
            return "give --vocab text"
        return (
            "give a lower --min-count" if self.alphabet.min_count > 1 else "no model can learn them: give another text"
        )


@dataclass
class Tally:
    """Counts what a preparation reads. A file that is read several times is counted the first time only."""

    bar: tqdm
    train: Losses = field(default_factory=Losses)
    valid: Losses = field(default_factory=Losses)  # of the files that are for validation only
    files: set[Path] = field(default_factory=set)

    def report(self) -> dict:
        """The counts, as the report of a corpus holds them."""
        dropped = self.train.dropped + self.valid.dropped
        return {
            "dropped_characters": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
            "normalised_characters": self.train.normalised + self.valid.normalised,
            "read": {"train": self.train.report(), "validation": self.valid.report()},
        }

    def require_most_kept(self, plan: Plan) -> None:
        """Raises CorpusError if more than half of the training files or of the validation files was dropped."""
        self.train.require_most_kept(name_of(plan.files), plan.advice)
        if plan.valid:
            other = "the text to train on has other characters: give another text to validate on"
            self.valid.require_most_kept(name_of(plan.valid), other if plan.alphabet else plan.advice)


def with_vocabulary(plan: Plan, bar: tqdm) -> Plan:
    """The plan with the vocabulary that its alphabet finds in the training files. Raises CorpusError.

    classic has none yet: it takes the characters of its own clean text.
    """
    if plan.vocab or plan.cleaning == "classic":
        return plan
    raw = (raw for path in plan.files for raw in raw_texts(path, not plan.single, bar.update))
    texts = (trimmed(each, plan.cleaning, whole=not plan.single) for each in raw)
    return replace(plan, vocab=vocabulary(islice(texts, plan.stories), plan.alphabet, name_of(plan.files)))


def write_stories(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin with end marks around the stories. Returns their counts. Raises CorpusError."""
    first = Tally(tqdm(disable=True))
    beginning = sum(1 for _ in islice(_read(plan, plan.files, first), _EVERY))
    if beginning < _EVERY:  # all was read
        first.require_most_kept(plan)
    if beginning == 0:
        raise CorpusError(f"{name_of(plan.files)} holds no text")
    if beginning == 1 and not plan.valid:
        raise CorpusError(
            f"{name_of(plan.files)} holds one story, but training and validation need at least two: "
            f"separate stories by lines {END}"
        )
    vocab = plan.vocab
    if vocab.end is None:
        raise CorpusError(
            f"{name_of(plan.files)} holds stories, but the vocabulary to encode them in has no end mark: "
            "join them with --cleaning classic, or give a single text"
        )
    every = min(_EVERY, beginning)  # with fewer than 20 stories, the last one is for validation
    excluded = set() if plan.excluded is None else set(plan.excluded.tolist())
    held_out: set[int] = set()
    trained_on = array("Q")
    removed = 0
    encode, letters = _encoder(vocab), _letters(vocab)
    mark = encode(_MARK)

    def stories(files: list[Path], validating: bool) -> Iterator[bytes]:
        nonlocal removed
        yield mark
        for number, story in enumerate(_read(plan, files, tally), 1):
            if not plan.valid and (number % every == 0) != validating:
                continue
            ids = encode(story)
            digest = _digest(ids, letters)
            if validating:
                held_out.add(digest)
            elif digest in held_out or digest in excluded:
                removed += 1
                continue
            else:
                trained_on.append(digest)
            yield ids + mark

    validation = _write(folder / STREAMS[1], stories(plan.valid or plan.files, validating=True), vocab)
    train = _write(folder / STREAMS[0], stories(plan.files, validating=False), vocab)
    np.array(sorted(held_out), np.uint64).tofile(folder / DIGESTS)
    tally.require_most_kept(plan)
    if not validation["characters"]:
        raise CorpusError(f"{name_of(plan.valid)} holds no text")
    if not trained_on:
        raise CorpusError(
            f"every story of {name_of(plan.files)} is in the validation text too: none is left to train on"
        )
    train["removed_as_in_validation"] = removed
    train["repeated_stories"] = len(trained_on) - len(np.unique(np.frombuffer(trained_on, np.uint64)))
    for part in (train, validation):
        part["stories"] = part["symbols"] - part["characters"] - 1
    in_both = _in_both(plan, folder, vocab)
    return {"train": train, "validation": validation, "in_both": in_both, "vocabulary": vocab.itos}


def write_text(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin of one long text. Returns their counts. Raises CorpusError."""
    characters: set[str] = set()
    parts = []
    for files in filter(None, (plan.files, plan.valid)):
        found, length = set(), 0
        for text in _joined(plan, tally, files):
            found.update(text)
            length += len(text)
        tally.require_most_kept(plan)
        if found <= set(" \n") or length < 2:
            raise CorpusError(f"{name_of(files)} holds no text")
        characters |= found
        parts.append((files, 0, length))
    if not plan.valid:
        cut = length * 9 // 10
        parts = [(plan.files, 0, cut), (plan.files, cut, length)]
    vocab = plan.vocab or Vocab.from_text(characters)
    encode, end = _encoder(vocab), [] if vocab.end is None else [_MARK]
    train, validation = (
        _write(folder / name, map(encode, chain(end, _joined(plan, tally, *part), end)), vocab)
        for name, part in zip(STREAMS, parts, strict=True)
    )
    (folder / DIGESTS).touch()  # a text has no stories
    in_both = _in_both(plan, folder, vocab)
    return {"train": train, "validation": validation, "in_both": in_both, "vocabulary": vocab.itos}


def _in_both(plan: Plan, folder: Path, vocab: Vocab) -> float:
    """The share of the validation text that stands in the training text too, also as a part of a longer one.

    Raises CorpusError if that is most of a validation text that is a file of its own.
    """
    train, valid = (np.memmap(folder / name, id_type(vocab), "r") for name in STREAMS)
    share = share_found(valid, train, vocab)
    if plan.valid and not plan.tales:
        require_apart(share, name_of(plan.valid), name_of(plan.files))
    return round(share, 3)


def _joined(plan: Plan, tally: Tally, files: list[Path], start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The characters from `start` to `stop` of one long text: a single text, or stories joined with blanks."""
    at = 0
    for text in _read(plan, files, tally):
        piece = " " + text if at and not plan.single else text
        yield piece[max(0, start - at) : None if stop is None else max(0, stop - at)]
        at += len(piece)


def _read(plan: Plan, files: list[Path], tally: Tally) -> Iterator[str]:
    """The clean stories of files, without the empty ones, or the pieces of a single text."""
    return islice(_texts(plan, files, tally), plan.stories if files is plan.files else None)


def _texts(plan: Plan, files: list[Path], tally: Tally) -> Iterator[str]:
    for path in files:
        losses = tally.valid if files is plan.valid else tally.train
        if path in tally.files:  # its losses are counted already
            losses = Losses()
        tally.files.add(path)
        for raw in raw_texts(path, not plan.single, tally.bar.update):
            losses.count(raw, plan.cleaning, plan.vocab)
            text = plain(raw, plan.cleaning, plan.vocab)
            if plan.cleaning == "story":
                indented, text = text, squeezed(text)
                losses.count_squeezed(indented, text)
            text = trimmed(text, plan.cleaning, whole=not plan.single)
            if plan.drops:
                text = trimmed(losses.restricted(text, plan.vocab), plan.cleaning, whole=not plan.single)
            if text:
                yield text
            else:
                losses.empty += 1


def _digest(ids: bytes, letters: Callable[[bytes], bytes]) -> int:
    """A 64-bit digest of an encoded story's letters and digits. Case and punctuation do not change it.

    Of a story without any, the story itself is digested.
    """
    return int.from_bytes(blake2b(letters(ids) or ids, digest_size=8).digest())


def _write(path: Path, texts: Iterable[bytes], vocab: Vocab) -> dict[str, int]:
    """Writes encoded texts and returns their counts. An end mark, at the end of a text, is no character."""
    id_of = id_type(vocab)
    end, size, marks = () if vocab.end is None else id_of(vocab.end).tobytes(), 0, 0
    with path.open("wb") as file:
        for text in texts:
            size += file.write(text)
            marks += text.endswith(end)  # nothing ends with ()
    symbols = size // id_of().itemsize
    return {"characters": symbols - marks, "symbols": symbols}


def _encoder(vocab: Vocab) -> Callable[[str], bytes]:
    """A function from a clean text, of characters of the vocabulary and `_MARK`, to its ids as bytes."""
    codes = {ord(_MARK if symbol == END else symbol): i for symbol, i in vocab.stoi.items()}
    table = np.zeros(1 + max(*codes, 255), id_type(vocab))
    table[list(codes)] = list(codes.values())
    if vocab.is_ascii:
        narrow = bytes(table)
        return lambda text: text.encode("ascii").translate(narrow)
    return lambda text: table[np.frombuffer(text.encode("utf-32-le"), np.uint32)].tobytes()


def _letters(vocab: Vocab) -> Callable[[bytes], bytes]:
    """A function from the ids of a text to those of its letters, digits and vowel signs, two bytes each, without case.

    A vocabulary and a larger one that begins with it give the same.
    """
    numbers = letter_numbers(vocab)
    if id_type(vocab) == np.uint8:
        table, others = bytes(numbers.astype(np.uint8)).ljust(256, b"\0"), bytes(np.flatnonzero(numbers == 0))
        return lambda ids: ids.translate(table, others).decode("latin-1").encode("utf-16-le")

    def letters(ids: bytes) -> bytes:
        found = numbers[np.frombuffer(ids, np.uint16)]
        return found[found > 0].tobytes()

    return letters


def name_of(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
