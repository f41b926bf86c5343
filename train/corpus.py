"""A name or a file -> clean stories -> encoded bytes on disk, one per character, memory-mapped and cached."""

import errno
import hashlib
import json
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.vocab import END, Vocab, normalise, repair
from train.stories import CLEANINGS, CorpusError, batches, clean, files_of, has_stories, read_stories

__all__ = ["Corpus", "CorpusError", "prepare", "read_stories"]

CACHE = Path(".cache/corpus")
_VERSION = 1  # of the cleaning and the layout of the cache: a new one makes every cached corpus stale
_EVERY = 20  # every 20th story validates where there is no validation file
_MARK = "\x7f"  # stands for END while text is ASCII: no cleaned text holds it
_LETTERS = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
_NO_LETTERS = bytes(b for b in range(256) if not chr(b).isalnum() or b > 127)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Encoded text to train and to validate on.

    With an end mark in `vocab` each stream is end, story, end, story, ..., end; without one it is plain text.
    """

    name: str
    vocab: Vocab
    train: np.ndarray  # uint8 ids (N,), memory-mapped
    valid: np.ndarray  # uint8 ids (M,), memory-mapped
    report: dict  # JSON-able: sources, cleaning, counts; for the model card


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be prepared, from which files, and how."""

    name: str
    files: list[Path]
    valid: list[Path]
    cleaning: str
    stories: int | None
    single: bool  # one text without stories


@dataclass
class _Tally:
    """What one preparation counts on its way."""

    bar: tqdm
    dropped: Counter[str] = field(default_factory=Counter)
    in_validation: int = 0
    letters: array = field(default_factory=lambda: array("Q"))  # a digest of each training story's letters


def prepare(
    data: str,
    *,
    valid: str | None = None,
    cleaning: str = "auto",
    stories: int | None = None,
    cache: Path | None = None,
    progress: bool = True,
) -> Corpus:
    """The corpus of a name or a path (.txt, .jsonl, .parquet, or a folder of them), from the cache where it is there.

    valid: a file or folder to validate on. Without one every 20th story validates, of a single text the last tenth.
    cleaning: "story", "verbatim" or "classic" (see `train.stories.clean`); "auto" is story for stories, verbatim for
        a single text. Classic joins the stories by blanks into one text; its vocabulary is that text's characters.
    stories: use only the first so many stories.
    progress: show a bar on a terminal.
    Raises CorpusError naming the file and the mend; then nothing is left behind.
    """
    cache = Path(cache or CACHE)
    try:
        plan = _plan(data, valid, cleaning, stories)
        sources = [_source(p) for p in plan.files]
        held_out = [_source(p) for p in plan.valid]
        key = [_VERSION, plan.cleaning, stories, *([s["sha256"], s["format"]] for s in sources), "valid"]
        key += [[s["sha256"], s["format"]] for s in held_out]
        fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        folder = cache / f"{plan.name}-{fingerprint}"
        if (corpus := _open(folder, plan.name)) is None:
            about = {"name": plan.name, "sources": sources, "validation_sources": held_out, "fingerprint": fingerprint}
            _build(plan, about, folder, progress)
            corpus = _open(folder, plan.name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "free some, or keep the cache on another disk"
            raise CorpusError(f"no space left to prepare {data} in {cache}: {mend}") from None
        raise CorpusError(f"{error.filename or cache}: {error.strerror or error}") from None
    if corpus is None:
        raise CorpusError(f"{folder} changed while it was read; try again")
    return corpus


def _plan(data: str, valid: str | None, cleaning: str, stories: int | None) -> _Plan:
    if cleaning not in ("auto", *CLEANINGS):
        raise CorpusError(f"cleaning ({cleaning!r}) must be auto, {', '.join(CLEANINGS[:-1])} or {CLEANINGS[-1]}")
    if stories is not None and (type(stories) is not int or stories < 1):
        raise CorpusError(f"stories ({stories!r}) must be a whole number of at least 1")
    path = Path(data)
    files = files_of(path)
    valid_files = files_of(Path(valid)) if valid else []
    single = not has_stories(files) and not (valid_files and has_stories(valid_files))
    if single and stories is not None:
        raise CorpusError(
            f"{data} is a single text: part its stories by lines {END} to use the first {stories} of them"
        )
    if cleaning == "auto":
        cleaning = "verbatim" if single else "story"
    return _Plan(
        name=path.resolve().stem, files=files, valid=valid_files, cleaning=cleaning, stories=stories, single=single
    )


def _source(path: Path) -> dict:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "format": path.suffix[1:], "bytes": path.stat().st_size, "sha256": digest}


def _open(folder: Path, name: str) -> Corpus | None:
    """The cached corpus, or None where it is missing or incomplete."""
    try:
        about = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        train, valid = (np.memmap(folder / f"{part}.bin", np.uint8, "r") for part in ("train", "valid"))
        if (len(train), len(valid)) != (about["train"]["symbols"], about["validation"]["symbols"]):
            return None
        symbols = about.pop("vocabulary")
        return Corpus(name=name, vocab=Vocab(symbols), train=train, valid=valid, report=about)
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _build(plan: _Plan, about: dict, folder: Path, progress: bool) -> None:
    """Writes a cache folder beside its place and renames it, so that no reader and no second writer sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".preparing-", dir=folder.parent))
    passes = 1 if plan.valid or plan.single or plan.cleaning == "classic" else 2
    total = passes * sum(p.stat().st_size for p in plan.files) + sum(p.stat().st_size for p in plan.valid)
    bar = tqdm(
        total=total, desc=f"preparing {plan.name}", unit="B", unit_scale=True, disable=None if progress else True
    )
    try:
        with bar:
            tally = _Tally(bar)
            as_text = plan.single or plan.cleaning == "classic"
            counts = _write_text(plan, scratch, tally) if as_text else _write_stories(plan, scratch, tally)
        report = about | {"cleaning": plan.cleaning, "limit": plan.stories} | counts
        report["dropped_characters"] = dict(tally.dropped.most_common())
        (scratch / "corpus.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        if _open(folder, plan.name) is None:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                scratch.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first: use its folder
                    raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read(plan: _Plan, files: list[Path], tally: _Tally, count: bool = True) -> Iterator[str]:
    """The clean stories of files, up to the limit, without empty ones; of a single text its pieces."""
    limit = plan.stories if files is plan.files else None
    return islice(_texts(plan, files, tally, count), limit)


def _texts(plan: _Plan, files: list[Path], tally: _Tally, count: bool) -> Iterator[str]:
    for path in files:
        for size, raw_texts in batches(path, whole=not plan.single):
            for raw in raw_texts:
                if count and not raw.isascii():
                    tally.dropped.update(_dropped(raw, plan.cleaning))
                text = clean(raw, plan.cleaning)
                if not plan.single:
                    text = text.strip(" \n")
                elif plan.cleaning == "story":
                    text = text.strip(" \n") + "\n"
                if text:
                    yield text
            tally.bar.update(size)


def _dropped(raw: str, cleaning: str) -> list[str]:
    if cleaning == "classic":
        return [c for c in raw if not c.isascii()]
    return [c for c in repair(raw) if not c.isascii() and not normalise(c)]


def _write_stories(plan: _Plan, folder: Path, tally: _Tally) -> dict:
    """Writes both streams, end marks between the stories, and gives their counts."""
    seen: set[int] = set()

    def held_out() -> Iterator[str]:
        for number, story in enumerate(_read(plan, plan.valid or plan.files, tally)):
            if plan.valid or number % every == every - 1:
                seen.add(_letters(story))
                yield story

    def trained_on() -> Iterator[str]:
        for number, story in enumerate(_read(plan, plan.files, tally, count=bool(plan.valid))):
            letters = _letters(story)
            if not plan.valid and number % every == every - 1:
                continue
            if letters in seen:
                tally.in_validation += 1
                continue
            tally.letters.append(letters)
            yield story

    names = _names(plan.files)
    first = len(list(islice(_read(plan, plan.files, _Tally(tqdm(disable=True))), _EVERY)))
    every = min(_EVERY, first)  # of fewer than 20 stories the last one validates
    if first == 0:
        raise CorpusError(f"{names} holds no text")
    if first == 1 and not plan.valid:
        raise CorpusError(f"{names} holds one story: add another by a line {END}, or give a validation file")
    valid = _write(folder / "valid.bin", held_out())
    if plan.valid and not valid["stories"]:
        raise CorpusError(f"{_names(plan.valid)} holds no text")
    train = _write(folder / "train.bin", trained_on())
    if not train["stories"]:
        raise CorpusError(f"every story of {names} also stands in the validation text: none is left to train on")
    repeated = len(tally.letters) - len(np.unique(np.frombuffer(tally.letters, np.uint64)))
    removed = {"removed_as_in_validation": tally.in_validation, "repeated_stories": repeated}
    return {"train": train | removed, "validation": valid, "vocabulary": Vocab.ascii().itos}


def _write(path: Path, stories: Iterable[str]) -> dict:
    """Writes one stream: end, story, end, story, ..., end."""
    vocab = Vocab.ascii()
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


def _letters(story: str) -> int:
    """A 64-bit digest of a story's letters and digits: alike for two that differ only in case and punctuation."""
    letters = story.encode("ascii").translate(_LETTERS, _NO_LETTERS)
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest())


def _write_text(plan: _Plan, folder: Path, tally: _Tally) -> dict:
    """Writes both streams of one long text, and gives their counts. Without a validation text its last tenth is one."""
    parts = [("train", plan.files)] + ([("valid", plan.valid)] if plan.valid else [])
    seen: set[int] = set()
    stories: dict[str, int] = {}
    for part, files in parts:
        symbols, count = set(), 0
        with (folder / f"{part}.txt").open("wb") as file:
            for text in _read(plan, files, tally):
                # classic: a blank between two stories is all that parts them
                raw = (text if plan.single or not count else " " + text).encode("ascii")
                symbols.update(raw)
                count += file.write(raw)
                stories[part] = stories.get(part, 0) + 1
        if count < 2 or not symbols - set(b" \n"):
            raise CorpusError(f"{_names(files)} holds no text")
        seen |= symbols
    vocab = Vocab.from_text(map(chr, seen)) if plan.cleaning == "classic" else Vocab.ascii()
    sizes = {part: (folder / f"{part}.txt").stat().st_size for part, _ in parts}
    if plan.valid:
        spans = {"train": ("train", 0, sizes["train"]), "valid": ("valid", 0, sizes["valid"])}
    else:
        cut = sizes["train"] * 9 // 10
        spans = {"train": ("train", 0, cut), "valid": ("train", cut, sizes["train"])}
    for part, (text, start, stop) in spans.items():
        _encode(folder / f"{text}.txt", start, stop, folder / f"{part}.bin", vocab)
    for part, _ in parts:
        (folder / f"{part}.txt").unlink()
    ends = 0 if vocab.end is None else 2
    counts = {
        part: {"characters": stop - start, "symbols": stop - start + ends} for part, (_, start, stop) in spans.items()
    }
    return {"train": counts["train"], "validation": counts["valid"], "vocabulary": vocab.itos}


def _encode(text: Path, start: int, stop: int, target: Path, vocab: Vocab) -> None:
    """Writes the characters start to stop of an ASCII file as ids, between end marks where the vocabulary has one."""
    table = _table(vocab)
    end = b"" if vocab.end is None else bytes([vocab.end])
    with text.open("rb") as source, target.open("wb") as file:
        source.seek(start)
        file.write(end)
        while start < stop:
            chunk = source.read(min(stop - start, 4 << 20))
            file.write(chunk.translate(table))
            start += len(chunk)
        file.write(end)


def _table(vocab: Vocab) -> bytes:
    """For `bytes.translate`: ASCII to ids, and the mark to the end mark's id."""
    table = bytearray(256)
    for symbol, i in vocab.stoi.items():
        table[ord(_MARK if symbol == END else symbol)] = i
    return bytes(table)


def _names(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
