"""Writes clean stories as two encoded streams on disk, one for training and one for validation."""

import shutil
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.vocab import END, Vocab, compose
from train.text.alphabet import Alphabet, vocabulary
from train.text.encoded import encoder, end_mark, id_type, story_digests
from train.text.losses import Losses
from train.text.overlap import require_apart, share_found
from train.text.reading import CorpusError, raw_texts
from train.text.stories import plain, squeezed, trimmed

STREAMS, DIGESTS = ("train.bin", "valid.bin"), "held-out.bin"  # the files of a prepared corpus
_EVERY = 20  # without a validation file, every 20th story is for validation


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to prepare, from which files, and how."""

    name: str
    files: list[Path]
    valid: list[Path]
    cleaning: str
    stories: int | None
    single: bool  # whether it is one text without stories
    vocab: Vocab | None  # characters outside it are dropped; None: that of the text (see `with_vocabulary`)
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
    def reads(self) -> list[Path]:
        """The files as often as they are read."""
        counted = self.vocab is None and (self.alphabet.counts or self.cleaning == "classic")
        again = self.files + (self.valid if self.cleaning == "classic" else []) if counted else []
        return self.files + self.valid + again

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
    """Counts what a preparation reads."""

    bar: tqdm
    train: Losses = field(default_factory=Losses)
    valid: Losses = field(default_factory=Losses)  # of the files that are for validation only

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
    """The plan with the vocabulary of its text, unless it has one. Raises CorpusError.

    classic has the characters of all its text, the others those that the alphabet finds in the training text.
    """
    if plan.vocab:
        return plan
    if plan.cleaning == "classic":
        texts = (text for files in (plan.files, plan.valid) for text in _joined(plan, Tally(bar), files))
        return replace(plan, vocab=Vocab.from_text(set().union(*texts) or " "))
    raw = (raw for path in plan.files for raw in raw_texts(path, not plan.single, bar.update))
    texts = filter(None, (trimmed(compose(each), plan.cleaning, whole=not plan.single) for each in raw))
    return replace(plan, vocab=vocabulary(islice(texts, plan.stories), plan.alphabet, name_of(plan.files)))


def _validate_every(plan: Plan) -> int:
    """Of how many stories one is for validation. Raises CorpusError if there are too few."""
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
    if plan.vocab.end is None:
        raise CorpusError(
            f"{name_of(plan.files)} holds stories, but the vocabulary to encode them in has no end mark: "
            "join them with --cleaning classic, or give a single text"
        )
    return min(_EVERY, beginning)  # with fewer than 20 stories, the last one is for validation


def write_stories(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin with end marks around the stories. Returns their counts. Raises CorpusError."""
    every = _validate_every(plan)
    vocab = plan.vocab
    encode, digest_of, mark = encoder(vocab), story_digests(vocab), end_mark(vocab)
    held_out = set() if plan.excluded is None else set(plan.excluded.tolist())
    trained_on, sizes, validated, symbols = array("Q"), array("Q"), array("Q"), 1

    def stories() -> Iterator[tuple[str, bool]]:
        """Each story, and whether it validates."""
        for number, story in enumerate(_read(plan, plan.files, tally), 1):
            yield story, not plan.valid and number % every == 0
        yield from ((story, True) for story in _read(plan, plan.valid, tally))

    with (folder / STREAMS[0]).open("wb") as train, (folder / STREAMS[1]).open("wb") as valid:
        train.write(mark)
        valid.write(mark)
        for story, validating in stories():
            ids = encode(story)
            digest = digest_of(story, ids)
            if validating:
                validated.append(digest)
                symbols += valid.write(ids + mark) // len(mark)
            else:
                trained_on.append(digest)
                sizes.append(train.write(ids + mark))
    tally.require_most_kept(plan)
    if not validated:
        raise CorpusError(f"{name_of(plan.valid)} holds no text")
    held_out.update(validated)
    kept = np.fromiter((digest not in held_out for digest in trained_on), bool, len(trained_on))
    if not kept.any():
        raise CorpusError(
            f"every story of {name_of(plan.files)} is in the validation text too: none is left to train on"
        )
    if not kept.all():
        _keep(folder / STREAMS[0], len(mark), sizes, kept)
    np.unique(np.array(validated, np.uint64)).tofile(folder / DIGESTS)
    digests, length = np.array(trained_on, np.uint64)[kept], int(np.array(sizes)[kept].sum()) // len(mark) + 1
    return {
        "train": _counts(length, 1 + len(digests))
        | {"removed_as_in_validation": len(kept) - len(digests)}
        | {"repeated_stories": len(digests) - len(np.unique(digests)), "stories": len(digests)},
        "validation": _counts(symbols, 1 + len(validated)) | {"stories": len(validated)},
        "in_both": _in_both(plan, folder, vocab),
        "vocabulary": vocab.itos,
    }


def _keep(path: Path, start: int, sizes: Iterable[int], kept: Iterable[bool]) -> None:
    """Rewrites a file as its first `start` bytes and those of the following pieces that are to be kept."""
    rest = path.with_suffix(".rest")
    with path.open("rb") as file, rest.open("wb") as kept_file:
        kept_file.write(file.read(start))
        for size, keep in zip(sizes, kept, strict=True):
            piece = file.read(size)
            if keep:
                kept_file.write(piece)
    rest.replace(path)


def _counts(symbols: int, marks: int) -> dict[str, int]:
    """The counts of a stream. An end mark is a symbol, but no character."""
    return {"characters": symbols - marks, "symbols": symbols}


def write_text(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin of one long text. Returns their counts. Raises CorpusError."""
    vocab = plan.vocab
    encode, mark = encoder(vocab), end_mark(vocab)
    paths, lengths = [folder / name for name in STREAMS], []
    for path, files in zip(paths, filter(None, (plan.files, plan.valid)), strict=False):
        length, blank = 0, True
        with path.open("wb") as file:
            file.write(mark)
            for text in _joined(plan, tally, files):
                file.write(encode(text))
                length, blank = length + len(text), blank and not text.strip(" \n")
            file.write(mark)
        tally.require_most_kept(plan)
        if blank or length < 2:
            raise CorpusError(f"{name_of(files)} holds no text")
        lengths.append(length)
    if not plan.valid:
        cut = length * 9 // 10
        lengths = [cut, length - cut]
        with paths[0].open("r+b") as train, paths[1].open("wb") as valid:
            train.seek(len(mark) + cut * id_type(vocab)().itemsize)
            valid.write(mark)
            place = train.tell()
            shutil.copyfileobj(train, valid)  # with the mark at its end
            train.truncate(place)
            train.seek(place)
            train.write(mark)
    (folder / DIGESTS).touch()  # a text has no stories
    marks = 2 if mark else 0
    train, validation = (_counts(length + marks, marks) for length in lengths)
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


def _joined(plan: Plan, tally: Tally, files: list[Path]) -> Iterator[str]:
    """The pieces of one long text: a single text, or stories joined with blanks."""
    for number, text in enumerate(_read(plan, files, tally)):
        yield " " + text if number and not plan.single else text


def _read(plan: Plan, files: list[Path], tally: Tally) -> Iterator[str]:
    """The clean stories of files, without the empty ones, or the pieces of a single text."""
    return islice(_texts(plan, files, tally), plan.stories if files is plan.files else None)


def _texts(plan: Plan, files: list[Path], tally: Tally) -> Iterator[str]:
    for path in files:
        losses = tally.valid if files is plan.valid else tally.train
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


def name_of(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
