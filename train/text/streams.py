"""Clean stories to the two encoded streams on disk that a model trains and validates on."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.vocab import END, Vocab, normalise, repair
from train.text.encoded import stories_in
from train.text.stories import CorpusError, batches, clean

_EVERY = 20  # every 20th story validates where there is no validation file
_MARK = "\x7f"  # stands for END while text is ASCII: no clean text holds it
_LOWER = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
_NO_LETTERS = bytes(b for b in range(128) if not chr(b).isalnum())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be prepared, from which files, and how."""

    name: str
    files: list[Path]
    valid: list[Path]
    cleaning: str
    stories: int | None
    single: bool  # one text without stories
    vocab: Vocab | None = None  # that of a model which goes on learning; what it lacks is dropped
    tales: dict | None = None  # what the books were cut into
    apart: frozenset[int] = frozenset()  # digests of stories that validate elsewhere, and are not trained on here


@dataclass
class Tally:
    """What a preparation counts on its way."""

    bar: tqdm
    dropped: Counter[str] = field(default_factory=Counter)
    normalised: int = 0  # characters outside ASCII that have a spelling in it

    def clear(self) -> None:
        """For the same files read again."""
        self.dropped.clear()
        self.normalised = 0


def write_stories(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin, end marks around the stories, and gives their counts. Raises CorpusError."""
    beginning = sum(1 for _ in islice(_read(plan, plan.files), _EVERY))
    if beginning == 0:
        raise CorpusError(f"{_names(plan.files)} holds no text")
    if beginning == 1 and not plan.valid:
        raise CorpusError(
            f"{_names(plan.files)} gives one story: to train and validate takes two, parted by lines {END}"
        )
    every = min(_EVERY, beginning)  # of fewer than 20 stories the last one validates
    held_out = set(plan.apart)
    trained_on = array("Q")
    removed = 0

    def validation_stories() -> Iterator[str]:
        for number, story in enumerate(_read(plan, plan.valid or plan.files, tally), 1):
            if plan.valid or number % every == 0:
                held_out.add(_letters(story))
                yield story

    def training_stories() -> Iterator[str]:
        nonlocal removed
        if not plan.valid:
            tally.clear()  # the same files are read again
        for number, story in enumerate(_read(plan, plan.files, tally), 1):
            if not plan.valid and number % every == 0:
                continue
            letters = _letters(story)
            if letters in held_out:
                removed += 1
            else:
                trained_on.append(letters)
                yield story

    vocab = plan.vocab or Vocab.ascii()
    if vocab.end is None:
        raise CorpusError(
            f"{_names(plan.files)} is stories, and the vocabulary that it is to be put into knows no end mark: "
            "join them with --cleaning classic, or give one single text"
        )
    validation = _write(folder / "valid.bin", validation_stories(), vocab)
    if not validation["stories"]:
        raise CorpusError(f"{_names(plan.valid)} holds no text")
    train = _write(folder / "train.bin", training_stories(), vocab)
    if not trained_on:
        raise CorpusError(
            f"every story of {_names(plan.files)} is in the validation text too: none is left to train on"
        )
    train["removed_as_in_validation"] = removed
    letters = np.frombuffer(trained_on, np.uint64)
    letters.sort()
    train["repeated_stories"] = int(np.count_nonzero(letters[1:] == letters[:-1]))
    return {"train": train, "validation": validation, "vocabulary": vocab.itos}


def write_text(plan: Plan, folder: Path, tally: Tally) -> dict:
    """Writes train.bin and valid.bin of one long text, and gives their counts. Raises CorpusError."""
    text, held_out = folder / "text", folder / "held_out"
    characters = _write_ascii(plan, plan.files, text, tally)
    start, stop = 0, text.stat().st_size
    if plan.valid:
        characters |= _write_ascii(plan, plan.valid, held_out, tally)
        stop_valid = held_out.stat().st_size
    else:
        held_out, start, stop, stop_valid = text, stop * 9 // 10, stop * 9 // 10, stop
    vocab = plan.vocab or (Vocab.from_text(map(chr, characters)) if plan.cleaning == "classic" else Vocab.ascii())
    train = _encode(text, 0, stop, folder / "train.bin", vocab)
    validation = _encode(held_out, start, stop_valid, folder / "valid.bin", vocab)
    text.unlink()
    held_out.unlink(missing_ok=True)
    return {"train": train, "validation": validation, "vocabulary": vocab.itos}


def _read(plan: Plan, files: list[Path], tally: Tally | None = None) -> Iterator[str]:
    """The clean stories of files, without empty ones, or the pieces of a single text."""
    limit = plan.stories if files is plan.files else None
    return islice(_texts(plan, files, tally), limit)


def _texts(plan: Plan, files: list[Path], tally: Tally | None) -> Iterator[str]:
    for path in files:
        for size, raw_texts in batches(path, whole=not plan.single):
            for raw in raw_texts:
                if tally and not raw.isascii():
                    gone = _dropped(raw, plan.cleaning)
                    tally.dropped.update(gone)
                    tally.normalised += sum(not c.isascii() for c in raw) - sum(gone.values())
                text = clean(raw, plan.cleaning)
                if plan.vocab:
                    text = _fitted(text, plan.vocab, tally)
                if not plan.single:
                    text = text.strip(" \n")
                elif plan.cleaning == "story":
                    text = text.strip(" \n") + "\n"  # a piece is whole lines
                if text:
                    yield text
            if tally:
                tally.bar.update(size)


def _fitted(text: str, vocab: Vocab, tally: Tally | None) -> str:
    """A clean text in the symbols of `vocab`: a newline that it lacks becomes a blank, other characters are dropped."""
    if "\n" not in vocab.stoi:
        text = text.replace("\n", " ")
    if not (unknown := set(text) - vocab.stoi.keys()):
        return text
    if tally:
        tally.dropped.update({c: text.count(c) for c in unknown})
    return text.translate(dict.fromkeys(map(ord, unknown)))


def _dropped(raw: str, cleaning: str) -> dict[str, int]:
    """How often each character occurs that cleaning takes out and leaves nothing for."""
    text = raw if cleaning == "classic" else repair(raw)
    gone = (c for c in set(text) if not c.isascii() and (cleaning == "classic" or not normalise(c)))
    return {c: text.count(c) for c in gone}


def _letters(story: str) -> int:
    """A digest of 64 bits of a story's letters and digits: equal where stories differ in case and punctuation only."""
    letters = story.encode("ascii").translate(_LOWER, _NO_LETTERS)
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest())


def digests(stream: np.ndarray, vocab: Vocab) -> Iterator[int]:
    """Of each story of an encoded stream what `_letters` gives; nothing of a text without end marks."""
    if vocab.end is None:
        return
    symbols = bytes(ord(symbol) if len(symbol) == 1 and symbol.isascii() else ord("?") for symbol in vocab.itos)
    for story in stories_in(stream, vocab):
        if len(story) > 2:
            yield _letters(story[1:-1].tobytes().translate(symbols.ljust(256, b"?")).decode("ascii"))


def _write(path: Path, stories: Iterable[str], vocab: Vocab) -> dict[str, int]:
    """Writes one stream: end, story, end, story, ..., end."""
    table = _table(vocab)
    stories = iter(stories)
    count = characters = 0
    with path.open("wb") as file:
        file.write(bytes([vocab.end]))
        while group := list(islice(stories, 1024)):
            text = "".join(story + _MARK for story in group)
            file.write(text.encode("ascii").translate(table))
            count += len(group)
            characters += len(text) - len(group)
    return {"stories": count, "characters": characters, "symbols": characters + count + 1}


def _write_ascii(plan: Plan, files: list[Path], target: Path, tally: Tally) -> set[int]:
    """Writes one long clean text, and gives the set of its characters."""
    characters: set[int] = set()
    with target.open("wb") as file:
        for text in _read(plan, files, tally):
            # a blank is all that parts two stories in the classic text
            raw = (text if plan.single or not file.tell() else " " + text).encode("ascii")
            characters.update(raw)
            file.write(raw)
    if characters <= set(b" \n") or target.stat().st_size < 2:
        raise CorpusError(f"{_names(files)} holds no text")
    return characters


def _encode(text: Path, start: int, stop: int, target: Path, vocab: Vocab) -> dict[str, int]:
    """Writes the characters start to stop of an ASCII file as ids, between end marks where the vocabulary has one."""
    table = _table(vocab)
    end = b"" if vocab.end is None else bytes([vocab.end])
    with text.open("rb") as source, target.open("wb") as file:
        source.seek(start)
        file.write(end)
        for at in range(start, stop, 1 << 22):
            file.write(source.read(min(1 << 22, stop - at)).translate(table))
        file.write(end)
    return {"characters": stop - start, "symbols": stop - start + 2 * len(end)}


def _table(vocab: Vocab) -> bytes:
    """For `bytes.translate`: ASCII to ids, and the mark to the end mark's id."""
    table = bytearray(256)
    for symbol, i in vocab.stoi.items():
        table[ord(_MARK if symbol == END else symbol)] = i
    return bytes(table)


def _names(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
