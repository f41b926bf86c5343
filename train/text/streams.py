"""Writes clean stories as two encoded streams on disk, one for training and one for validation."""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.vocab import END, Vocab, normalise, repair
from train.text.losses import LATIN, Losses, is_accent
from train.text.overlap import require_apart, share_found
from train.text.reading import CorpusError, raw_texts
from train.text.stories import plain, squeezed, trimmed

STREAMS, DIGESTS = ("train.bin", "valid.bin"), "held-out.bin"  # the files of a prepared corpus
_EVERY = 20  # without a validation file, every 20th story is for validation
_MARK = b"\x7f"  # represents END while text is ASCII bytes: no clean text contains this byte
_LOWER = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
_NO_LETTERS = bytes(b for b in range(128) if not chr(b).isalnum())
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


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
    excluded: np.ndarray | None = None  # the digests of stories that must not be in the training text

    @property
    def as_text(self) -> bool:
        """Whether the streams are one long text each."""
        return self.single or self.cleaning == "classic"


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
        fix = LATIN
        if plan.vocab:
            fix = f"the model's vocabulary has {len(plan.vocab)} symbols: train without it, or give another text"
        for losses, files in ((self.train, plan.files), (self.valid, plan.valid)):
            losses.require_most_kept(name_of(files) if files else "", fix)


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
    vocab = plan.vocab or Vocab.ascii()
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

    def stories(files: list[Path], validating: bool) -> Iterator[bytes]:
        nonlocal removed
        yield _MARK
        for number, (story, raw) in enumerate(_read(plan, files, tally), 1):
            if not plan.valid and (number % every == 0) != validating:
                continue
            digest = _story_digest(raw)
            if validating:
                held_out.add(digest)
            elif digest in held_out or digest in excluded:
                removed += 1
                continue
            else:
                trained_on.append(digest)
            yield story + _MARK

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
    characters: set[int] = set()
    parts = []
    for files in filter(None, (plan.files, plan.valid)):
        found, length = set(), 0
        for text in _joined(plan, tally, files):
            found.update(text)
            length += len(text)
        tally.require_most_kept(plan)
        if found <= set(b" \n") or length < 2:
            raise CorpusError(f"{name_of(files)} holds no text")
        characters |= found
        parts.append((files, 0, length))
    if not plan.valid:
        cut = length * 9 // 10
        parts = [(plan.files, 0, cut), (plan.files, cut, length)]
    vocab = plan.vocab or (Vocab.from_text(map(chr, characters)) if plan.cleaning == "classic" else Vocab.ascii())
    end = [] if vocab.end is None else [_MARK]
    train, validation = (
        _write(folder / name, chain(end, _joined(plan, tally, *part), end), vocab)
        for name, part in zip(STREAMS, parts, strict=True)
    )
    (folder / DIGESTS).touch()  # a text has no stories
    in_both = _in_both(plan, folder, vocab)
    return {"train": train, "validation": validation, "in_both": in_both, "vocabulary": vocab.itos}


def _in_both(plan: Plan, folder: Path, vocab: Vocab) -> float:
    """The share of the validation text that stands in the training text too, also as a part of a longer one.

    Raises CorpusError if that is most of a validation text that is a file of its own.
    """
    train, valid = (np.memmap(folder / name, np.uint8, "r") for name in STREAMS)
    share = share_found(valid, train, vocab)
    if plan.valid and not plan.tales:
        require_apart(share, name_of(plan.valid), name_of(plan.files))
    return round(share, 3)


def _joined(plan: Plan, tally: Tally, files: list[Path], start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The characters from `start` to `stop` of one long text: a single text, or stories joined with blanks."""
    at = 0
    for text, _ in _read(plan, files, tally):
        piece = b" " + text if at and not plan.single else text
        yield piece[max(0, start - at) : None if stop is None else max(0, stop - at)]
        at += len(piece)


def _read(plan: Plan, files: list[Path], tally: Tally) -> Iterator[tuple[bytes, str]]:
    """The clean stories of files as ASCII bytes, without the empty ones, or the pieces of a single text.

    Each comes with the raw text that it was made of.
    """
    return islice(_texts(plan, files, tally), plan.stories if files is plan.files else None)


def _texts(plan: Plan, files: list[Path], tally: Tally) -> Iterator[tuple[bytes, str]]:
    for path in files:
        losses = tally.valid if files is plan.valid else tally.train
        if path in tally.files:  # its losses are counted already
            losses = Losses()
        tally.files.add(path)
        for raw in raw_texts(path, not plan.single, tally.bar.update):
            losses.count(raw, plan.cleaning)
            text = plain(raw, plan.cleaning)
            if plan.cleaning == "story":
                indented, text = text, squeezed(text)
                losses.count_squeezed(indented, text)
            if plan.vocab:
                text = _restricted(text, plan.vocab, losses)
            if text := trimmed(text, plan.cleaning, whole=not plan.single):
                yield text.encode("ascii"), raw
            else:
                losses.empty += 1


def _restricted(text: str, vocab: Vocab, losses: Losses) -> str:
    """A clean text with the symbols of `vocab` only. A missing newline becomes a blank, others are dropped."""
    if "\n" not in vocab.stoi:
        text = text.replace("\n", " ")
    unknown = set(text) - vocab.stoi.keys()
    losses.dropped.update({c: text.count(c) for c in unknown})
    return text.translate(dict.fromkeys(map(ord, unknown))) if unknown else text


def _story_digest(raw: str) -> int:
    """A 64-bit digest of the letters and digits of a raw story in any script. Case and punctuation do not change it.

    Of a story without any, the story itself is digested.
    """
    text = raw if raw.isascii() else _NOT_ASCII.sub(lambda run: _letters(run[0]), repair(raw)).casefold()
    letters = text.encode(errors="surrogatepass").translate(_LOWER, _NO_LETTERS)
    return int.from_bytes(blake2b(letters or raw.strip().encode(errors="surrogatepass"), digest_size=8).digest())


@lru_cache(4096)  # most runs are typographic quotes
def _letters(text: str) -> str:
    """The letters and digits of a text outside ASCII, in ASCII where `normalise` can, and the marks that are vowels."""
    return "".join(normalise(c) or c * _is_letter(c) for c in unicodedata.normalize("NFKD", text))


def _is_letter(character: str) -> bool:
    return character.isalnum() or (unicodedata.category(character)[0] == "M" and not is_accent(character))


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


def name_of(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
