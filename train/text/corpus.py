"""A name or a file -> clean stories -> encoded bytes on disk, one per character, memory-mapped and cached."""

import errno
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.artifacts import utf8_safe
from model.vocab import END, Vocab
from train.flags import nearest
from train.text import tales
from train.text.download import NAMES, named
from train.text.files import remembered, sha256
from train.text.stories import KINDS, CorpusError, files_of, has_stories, read_stories
from train.text.streams import Plan, Tally, write_stories, write_text

__all__ = ["NAMES", "Corpus", "CorpusError", "prepare", "read_stories"]

Digest = Callable[[Path], str]  # the SHA-256 of a file

CACHE = Path(".cache/corpus")
_VERSION = 1  # of the cleaning and the layout of the cache: a new one makes every cached corpus stale
_PREPARING = ".preparing-"  # begins the name of a folder in which a corpus is made


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
    with _explained(data, cache), remembered(cache) as digest:
        plan = _plan(data, valid, cleaning, stories, cache, digest)
        if vocab and (plan.cleaning == "classic" or vocab != Vocab.ascii()):  # not what the cleaning gives anyway
            plan = replace(plan, vocab=vocab)
        if apart:
            plan = replace(plan, apart=(apart.valid, apart.vocab))
        about = _about(plan, apart, digest)
        if apart and (plan.single or plan.cleaning == "classic"):
            validates = {source["sha256"] for source in apart.report["validation_sources"]}
            if validates & {source["sha256"] for source in about["sources"]}:
                raise CorpusError(f"{data} is what validates: it cannot be trained on as well")
        folder = cache / f"{plan.name}-{about['fingerprint']}"
        report = _cached(folder, about["fingerprint"], digest) or _build(plan, about, folder, progress)
        train, valid = (np.memmap(folder / name, np.uint8, "r") for name in report.pop("files"))
        vocab = Vocab(report.pop("vocabulary"))
        return Corpus(name=report["name"], vocab=vocab, train=train, valid=valid, report=report)


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


def _plan(
    data: str | Path, valid: str | Path | None, cleaning: str, stories: int | None, cache: Path, digest: Digest
) -> Plan:
    """What is to be made of a name or a path; a named corpus is downloaded, and books are cut into tales."""
    path, held_out = Path(data), Path(valid) if valid else None
    if data in NAMES:
        path, own = named(str(data), cache / "downloads", validation=not valid and cleaning != "classic")
        held_out = held_out or own
    elif not path.exists():
        raise CorpusError(
            f"no corpus is named {data}, and no file or folder is there: give {', '.join(NAMES)}, "
            f"or the path of a {KINDS} file or a folder of them{nearest(data, NAMES)}"
        )
    files, valid_files = files_of(path), files_of(held_out) if held_out else []
    books = None
    if cleaning == "tales" or data == "panchatantra":
        books = {"books": [_source(book, digest) for book in files]}
        folder = cache / "tales" / _sha256_of(books["books"])[:16]
        books |= tales.write(files, folder)
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
    name = str(data) if data in NAMES else path.resolve().name if path.is_dir() else path.stem
    return Plan(
        name=name, files=files, valid=valid_files, cleaning=cleaning, stories=stories, single=single, tales=books
    )


def _about(plan: Plan, apart: Corpus | None, digest: Digest) -> dict:
    """What decides about every byte of a prepared corpus, and the fingerprint of that.

    A source counts by its SHA-256, which is remembered (see `files`): a change that leaves its size and time as they
    were is not seen. The same holds for the prepared files.
    """
    about = {
        "name": utf8_safe(plan.name),
        "sources": [_source(path, digest) for path in plan.files],
        "validation_sources": [_source(path, digest) for path in plan.valid],
        "cleaning": plan.cleaning,
        "limit": plan.stories,
    }
    fitted_to, apart_from = plan.vocab and plan.vocab.itos, apart and apart.report["fingerprint"]
    optional = {"tales": plan.tales, "fitted_to": fitted_to, "apart_from": apart_from}
    about |= {name: value for name, value in optional.items() if value}
    return about | {"fingerprint": _sha256_of([_VERSION, about])[:16]}


def _source(path: Path, digest: Digest) -> dict:
    return {"file": utf8_safe(path.name), "bytes": path.stat().st_size, "sha256": digest(path)}


def _cached(folder: Path, fingerprint: str, digest: Digest) -> dict | None:
    """What corpus.json holds, if the cache has the corpus as it was written; a damaged one is removed."""
    if not folder.exists():
        return None
    try:
        report = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        whole = report.pop("sha256", None) == _sha256_of(report) and report["fingerprint"] == fingerprint
        whole = whole and report["files"] == {name: digest(folder / name) for name in report["files"]}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        print(f"{folder} is damaged: it is made again", file=sys.stderr)
        shutil.rmtree(folder)
    return report if whole else None


def _sha256_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _build(plan: Plan, about: dict, folder: Path, progress: bool) -> dict:
    """Writes the cached corpus beside its place and renames it, so that no other process sees half of it.

    Gives what corpus.json holds, without the SHA-256 of that.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _tidy(folder.parent)
    as_text = plan.single or plan.cleaning == "classic"
    reads = [(plan.files, (1 if plan.valid else 2) + as_text), (plan.valid, 1 + as_text)]
    size = sum(times * path.stat().st_size for files, times in reads for path in files)
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
        written = json.dumps(report | {"sha256": _sha256_of(report)}, indent=1)
        (making / "corpus.json").write_text(written, encoding="utf-8")
        try:
            making.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was first: its work serves
                raise
    return report


def _tidy(cache: Path) -> None:
    """Removes what killed processes left half made: folders that were begun more than a day ago."""
    for left in cache.glob(f"{_PREPARING}*"):
        with suppress(FileNotFoundError):  # its process has just ended
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
