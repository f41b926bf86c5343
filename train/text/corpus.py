"""A name or a file -> clean stories -> encoded bytes on disk, one per character, memory-mapped and cached."""

import errno
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.artifacts import spelled
from model.vocab import END, Vocab
from train.flags import nearest
from train.text import tales
from train.text.files import Hashes, sha256
from train.text.stories import CLEANINGS, CorpusError, files_of, has_stories, read_stories
from train.text.streams import Plan, Tally, digests, write_stories, write_text

__all__ = ["Corpus", "CorpusError", "prepare", "read_stories"]

NAMES = ("tinystories", "tinystories-v2", "shakespeare", "panchatantra")
CACHE = Path(".cache/corpus")
_VERSION = 1  # of the cleaning and the layout of the cache: a new one makes every cached corpus stale
_PREPARING = ".preparing-"  # begins the name of a folder in which a corpus is made
_DAY = 86_400  # seconds


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
    replay: np.ndarray | None = None  # uint8 ids of another text to train on, so that it is not forgotten


def prepare(
    data: str | Path,
    *,
    valid: str | Path | None = None,
    cleaning: str = "auto",
    stories: int | None = None,
    vocab: Vocab | None = None,
    apart: Corpus | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Corpus:
    """The corpus of a name or a path (.txt, .jsonl, .parquet, or a folder of them), from the cache where it is there.

    valid: a file or folder to validate on. Without one every 20th story validates, of a single text the last tenth.
    cleaning: "story", "verbatim" or "classic" (see `stories.clean`), or "tales" of books (see `tales`);
        "auto" is tales for panchatantra, story for other stories, verbatim for a single text. Classic joins the
        stories by blanks into one text, of which the last tenth validates; its vocabulary is that text's characters.
    stories: use only the first so many stories.
    vocab: symbols to encode in, instead of those that follow from the cleaning; characters that it lacks are dropped.
    apart: a corpus whose validation stories are not to be trained on either.
    progress: show how far it is on a terminal.
    Training stories that stand in a validation text, up to case and punctuation, are left out (not in classic).
    Raises CorpusError naming the file and the mend; then the cache is as it was.
    """
    cache = Path(cache or CACHE)
    with _explained(data, cache):
        hashes = Hashes(cache)
        plan = _plan(data, valid, cleaning, stories, hashes)
        if vocab and (plan.cleaning == "classic" or vocab != Vocab.ascii()):  # not what the cleaning gives anyway
            plan = replace(plan, vocab=vocab)
        about = _about(plan, apart, hashes)
        if apart and (plan.single or plan.cleaning == "classic"):
            validates = {source["sha256"] for source in apart.report["validation_sources"]}
            if validates & {source["sha256"] for source in about["sources"]}:
                raise CorpusError(f"{data} is what validates: it cannot be trained on as well")
        folder = cache / f"{plan.name}-{about['fingerprint']}"
        made = _cached(folder, about["fingerprint"], hashes)
        if made is None:
            if apart:
                plan = replace(plan, apart=frozenset(digests(apart.valid, apart.vocab)))
            _build(plan, about, folder, progress)
            made = _load(folder, about["fingerprint"], hashes)
        hashes.keep()
        return made


@contextmanager
def _explained(data: str | Path, cache: Path) -> Iterator[None]:
    """An error of the disk within becomes a CorpusError with the mend."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "free some, or keep the cache on another disk"
            raise CorpusError(f"no space left to prepare {data} in {cache}: {mend}") from None
        raise CorpusError(f"{error.filename or cache}: {error.strerror or error}") from None


def replaying(text: Corpus, other: Corpus) -> Corpus:
    """`text` with the training part of another corpus, in the same symbols, to be replayed beside it.

    `other` was prepared apart from `text`.
    """
    both = [text.report["fingerprint"], other.report["fingerprint"]]
    about = {key: other.report[key] for key in ("name", "sources", "cleaning", "train", "dropped_characters")}
    fingerprint = _sha256_of(both)[:16]
    return replace(text, replay=other.train, report=text.report | {"replay": about, "fingerprint": fingerprint})


def _plan(data: str | Path, valid: str | Path | None, cleaning: str, stories: int | None, hashes: Hashes) -> Plan:
    if cleaning not in ("auto", *CLEANINGS):
        raise CorpusError(f"cleaning ({cleaning!r}) must be auto, {', '.join(CLEANINGS[:-1])} or {CLEANINGS[-1]}")
    if stories is not None and (type(stories) is not int or stories < 1):
        raise CorpusError(f"stories ({stories!r}) must be a whole number of at least 1")
    path, held_out = _found(data, valid, cleaning, hashes.folder)
    files = files_of(path)
    valid_files = files_of(held_out) if held_out else []
    books = None
    if cleaning == "tales" or data == "panchatantra":
        books = {"books": [_source(path, hashes) for path in files]}
        folder = hashes.folder / "tales" / _sha256_of(books["books"])[:16]
        books |= tales.write(files, folder)
        if not books["tales"]["train"]:
            found = books["tales"]["valid"]
            raise CorpusError(f"{data} gives {found} tale{'s' * (found != 1)}: to train and validate takes two")
        files, own_valid = [folder / "train.txt"], [folder / "valid.txt"]
        if cleaning == "classic" or valid_files:  # it splits its text by itself, or something else validates
            files += own_valid
        else:
            valid_files = own_valid
        cleaning = "auto" if cleaning == "tales" else cleaning
    single = not has_stories(files) and not (valid_files and has_stories(valid_files))
    if single and stories is not None:
        raise CorpusError(f"{data} is a single text: to use {stories} of its stories, part them by lines {END}")
    if cleaning == "auto":
        cleaning = "verbatim" if single else "story"
    name = data if data in NAMES else path.resolve().name if path.is_dir() else path.stem
    return Plan(
        name=name, files=files, valid=valid_files, cleaning=cleaning, stories=stories, single=single, tales=books
    )


def _found(data: str | Path, valid: str | Path | None, cleaning: str, cache: Path) -> tuple[Path, Path | None]:
    """Where the text is, and the one that validates if it is not part of it; a named corpus is downloaded."""
    path, held_out = Path(data), Path(valid) if valid else None
    if data in NAMES:
        from train.text.download import named  # a run on a local file needs no network library

        path = named(data, "train", cache / "downloads")
        if held_out is None and cleaning != "classic":
            held_out = named(data, "valid", cache / "downloads")
    elif not path.exists():
        raise CorpusError(
            f"no corpus is named {data}, and no file or folder is there: give {', '.join(NAMES)}, "
            f"or the path of a .txt, .jsonl or .parquet file or a folder of them{nearest(data, NAMES)}"
        )
    return path, held_out


def _about(plan: Plan, apart: Corpus | None, hashes: Hashes) -> dict:
    """What decides about every byte of a prepared corpus, and the fingerprint of that.

    A source counts by its SHA-256. While its path, size and time of the last change are those of the cache's
    sources.json, the SHA-256 is taken from there, so one changed byte that left size and time as they were is not
    seen; the same holds for the prepared files. Without sources.json all files are read again.
    """
    about = {
        "name": spelled(plan.name),
        "sources": [_source(path, hashes) for path in plan.files],
        "validation_sources": [_source(path, hashes) for path in plan.valid],
        "cleaning": plan.cleaning,
        "limit": plan.stories,
    }
    if plan.tales:
        about["tales"] = plan.tales
    if plan.vocab:
        about["fitted_to"] = plan.vocab.itos
    if apart:
        about["apart_from"] = apart.report["fingerprint"]
    return about | {"fingerprint": _sha256_of([_VERSION, about])[:16]}


def _source(path: Path, hashes: Hashes) -> dict:
    return {"file": spelled(path.name), "bytes": path.stat().st_size, "sha256": hashes.of(path)}


class _Damaged(Exception):
    """A cached corpus is not the one that was written; the message says what is wrong."""


def _cached(folder: Path, fingerprint: str, hashes: Hashes) -> Corpus | None:
    """The corpus in the cache; None where there is none, or a damaged one, which is removed."""
    if not folder.exists():
        return None
    try:
        return _load(folder, fingerprint, hashes)
    except _Damaged as damage:
        print(f"{damage}: it is made again", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _load(folder: Path, fingerprint: str, hashes: Hashes) -> Corpus:
    """The cached corpus. Raises _Damaged where it is incomplete, changed, of another text or of another version."""
    path = folder / "corpus.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report.pop("sha256", None) != _sha256_of(report):
            raise _Damaged(f"{path} is not what was written (its SHA-256 differs)")
        if report["fingerprint"] != fingerprint:
            raise _Damaged(f"{folder} is of another text")
        for name, written in report.pop("files").items():
            if hashes.of(folder / name) != written:
                raise _Damaged(f"{folder / name} is not what was written (its SHA-256 differs)")
    except (FileNotFoundError, ValueError, TypeError, RecursionError) as error:
        raise _Damaged(f"{folder} is damaged ({error})") from error
    train, valid = (np.memmap(folder / f"{part}.bin", np.uint8, "r") for part in ("train", "valid"))
    vocab = Vocab(report.pop("vocabulary"))
    return Corpus(name=report["name"], vocab=vocab, train=train, valid=valid, report=report)


def _sha256_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _build(plan: Plan, about: dict, folder: Path, progress: bool) -> None:
    """Writes the cached corpus beside its place and renames it, so that no other process sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _tidy(folder.parent)
    as_text = plan.single or plan.cleaning == "classic"
    passes = 1 if plan.valid or as_text else 2
    size = passes * sum(path.stat().st_size for path in plan.files) + sum(path.stat().st_size for path in plan.valid)
    disable = None if progress else True  # None: only where there is no terminal
    with tempfile.TemporaryDirectory(prefix=_PREPARING, dir=folder.parent) as temporary:
        making = Path(temporary, "corpus")
        making.mkdir()
        with tqdm(total=size, desc=f"preparing {plan.name}", unit="B", unit_scale=True, disable=disable) as bar:
            tally = Tally(bar)
            counts = (write_text if as_text else write_stories)(plan, making, tally)
        dropped = dict(sorted(tally.dropped.items(), key=lambda item: (-item[1], item[0])))
        report = about | counts | {"dropped_characters": dropped, "normalised_characters": tally.normalised}
        report["files"] = {name: sha256(making / name) for name in ("train.bin", "valid.bin")}
        report["sha256"] = _sha256_of(report)
        (making / "corpus.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        try:
            making.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first: its work serves
                raise


def _tidy(cache: Path) -> None:
    """Removes what killed processes left half made: folders that were begun more than a day ago."""
    for left in cache.glob(f"{_PREPARING}*"):
        with suppress(FileNotFoundError):  # its process has just ended
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
