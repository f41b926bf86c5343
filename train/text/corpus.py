"""Turns a corpus name or a file into clean stories on disk: one or two bytes a character, memory-mapped and cached."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.artifacts import utf8_safe
from model.vocab import END, Vocab
from train.flags import nearest
from train.text import tales
from train.text.alphabet import Alphabet
from train.text.download import NAMES, named_files
from train.text.encoded import id_type
from train.text.files import cached_sha256, disk_errors_explained, sha256
from train.text.reading import KINDS, CorpusError
from train.text.sources import held_out_files, sources
from train.text.stories import has_stories, stories_of
from train.text.streams import DIGESTS, STREAMS, Plan, Tally, with_vocabulary, write_stories, write_text

__all__ = ["NAMES", "Corpus", "CorpusError", "name_of", "named", "prepare", "read_stories"]

Data = str | Path | Sequence[str | Path]  # the name of a corpus, or one path or several
Digest = Callable[[Path], str]  # gives the SHA-256 of a file

CACHE = Path(".cache/corpus")
AUTO = Alphabet()
_VERSION = 2  # of the cleaning and of the cache layout: raising it makes every cached corpus stale
_PREPARING = ".preparing-"  # prefix of the folder in which a corpus is prepared


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Encoded text for training and validation.

    If `vocab` has an end mark, each stream is end, story, end, story, ..., end. Otherwise it is plain text.
    """

    name: str
    vocab: Vocab
    train: np.ndarray  # ids (N,), memory-mapped: uint8, or uint16 if the vocabulary has more than 256 symbols
    valid: np.ndarray  # ids (M,), of the same type
    report: dict  # can be written as JSON: sources, cleaning, counts; for the model card
    digests: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # (S,) of the validation stories
    files: str = ""  # which were read and which were left out, in words
    replay: np.ndarray | None = None  # ids of an earlier text, trained on again so that the model keeps it


def read_stories(path: str | Path) -> Iterator[str]:
    """The stories of a file, or of the held-out files of a folder, in ASCII, without empty ones. Raises CorpusError."""
    return stories_of(held_out_files(Path(path)), "story", Vocab.ascii())


def prepare(
    data: Data,
    *,
    valid: str | Path | None = None,
    cleaning: str = "auto",
    stories: int | None = None,
    vocab: Vocab | Alphabet = AUTO,
    exclude: Corpus | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Corpus:
    """Prepares a corpus, or reads it from the cache. `data` is a name, or one path or several.

    A path leads to a .txt, .jsonl, .csv or .parquet file, or to a folder of such files. Files whose names say that they
    are for validation are validated on (see `sources`).
    valid: a file or folder to validate on. Without any, every 20th story is for validation; of a single text, the last
        tenth is.
    cleaning: "story", "verbatim" or "classic" (see `stories.clean`), or "tales" for books (see `tales`).
        "auto" means tales for panchatantra, story for other stories, and verbatim for a single text. "classic" joins
        the stories with blanks into one text. The last tenth of that text is for validation, and its characters are
        the vocabulary.
    stories: use only the first N stories.
    vocab: the symbols to encode in, or how to find them in the text. Other characters are dropped. A named corpus is
        ASCII unless you ask for the characters of its text.
    exclude: another corpus. Its validation stories are removed from the training text here.
    progress: show a progress bar on a terminal.
    A training story that equals a validation story in all but case and punctuation is removed (not in classic).
    Raises CorpusError naming the file and the fix. The cache is then unchanged.
    """
    cache = Path(cache or CACHE)
    with disk_errors_explained(_shown(data), cache), cached_sha256(cache) as digest:
        plan, files = _plan(data, valid, cleaning, stories, cache, digest)
        if isinstance(vocab, Vocab):
            plan = replace(plan, vocab=vocab, alphabet=None)
        elif not (vocab == AUTO and (data in NAMES or plan.cleaning == "classic")):
            plan = replace(plan, alphabet=vocab)
        if exclude:
            plan = replace(plan, excluded=exclude.digests)
        about = _fingerprinted(plan, exclude, digest)
        if plan.as_text:
            held_out = about["validation_sources"] + (exclude.report["validation_sources"] if exclude else [])
            if {source["sha256"] for source in held_out} & {source["sha256"] for source in about["sources"]}:
                raise CorpusError(f"{_shown(data)} is the validation text: choose another text to train on")
        folder = cache / f"{plan.name[:40]}-{about['fingerprint']}"
        report = _cached(folder, about["fingerprint"], digest) or _build(plan, about, folder, progress)
        vocab, name = Vocab(report.pop("vocabulary")), report["name"]
        train, valid = (np.memmap(folder / name, id_type(vocab), "r") for name in STREAMS)
        digests = np.fromfile(folder / DIGESTS, np.uint64)
        del report["files"]
        return Corpus(name=name, vocab=vocab, train=train, valid=valid, report=report, digests=digests, files=files)


def with_replay(text: Corpus, other: Corpus) -> Corpus:
    """`text` plus the training part of `other`, which training replays beside it.

    The vocabulary of `text` begins with that of `other`, and `other` was prepared with `exclude=text`.
    """
    both = [text.report["fingerprint"], other.report["fingerprint"]]
    about = {key: other.report[key] for key in ("name", "sources", "cleaning", "train", "dropped_characters", "read")}
    fingerprint = _sha256_of(both)[:16]
    return replace(text, replay=other.train, report=text.report | {"replay": about, "fingerprint": fingerprint})


def _plan(
    data: Data,
    valid: str | Path | None,
    cleaning: str,
    stories: int | None,
    cache: Path,
    digest: Digest,
) -> tuple[Plan, str]:
    """Decides what to prepare from a name or paths. Downloads a named corpus, and cuts books into tales.

    Also says in words which files were read and which were left out.
    """
    held_out = Path(valid) if valid else None
    if data in NAMES:
        path, own = named_files(str(data), cache / "downloads", validation=not valid and cleaning != "classic")
        paths, held_out = [path], held_out or own
    else:
        paths = [Path(data)] if isinstance(data, str | Path) else [Path(path) for path in data]
        for path in paths:
            _require_exists(path, alone=len(paths) == 1)
    found = sources(paths, held_out)
    files, valid_files = found.train, found.valid
    books = None
    if cleaning == "tales" or data == "panchatantra":
        if not held_out:  # every tenth tale of all the books is for validation
            files, valid_files = files + valid_files, []
        books = {"books": [_source(book, digest) for book in files]}
        folder = cache / "tales" / _sha256_of(books["books"])[:16]
        books |= tales.write(files, folder)
        files, own_valid = [folder / "train.txt"], [folder / "valid.txt"]
        if cleaning == "classic" or valid_files:  # classic splits its text itself; or the user gave a validation text
            files += own_valid
        else:
            valid_files = own_valid
        cleaning = "auto" if cleaning == "tales" else cleaning
    single = not has_stories(files) and not (valid_files and has_stories(valid_files))
    if single and stories is not None:
        raise CorpusError(f"{_shown(data)} is a single text: to use {stories} of its stories, separate them by {END}")
    if cleaning == "auto":
        cleaning = "verbatim" if single else "story"
    plan = Plan(
        name=name_of(data),
        files=files,
        valid=valid_files,
        cleaning=cleaning,
        stories=stories,
        single=single,
        tales=books,
        vocab=None,
        alphabet=Alphabet("ascii"),
    )
    return plan, str(found)


def name_of(data: Data) -> str:
    """The name of a corpus: its own, or that of its first file or folder and the number of the others."""
    if data in NAMES:
        return str(data)
    if isinstance(data, str | Path):
        return Path(os.path.abspath(data)).name if Path(data).is_dir() else Path(data).stem
    return name_of(data[0]) + (f"-and-{len(data) - 1}-more" if len(data) > 1 else "")


def named(data: str | Sequence[str]) -> dict[str, str]:
    """The name of a text on a card, and the corpus that it is unless it is made of the user's own files.

    A path keeps the name of its file or folder and of the one around that.
    """
    if data in NAMES:
        return {"name": data, "corpus": data}
    paths = [data] if isinstance(data, str) else data
    return {"name": utf8_safe(", ".join("/".join(Path(path).parts[-2:]) for path in paths))}


def _shown(data: Data) -> str:
    return str(data) if isinstance(data, str | Path) else ", ".join(map(str, data))


def _require_exists(path: Path, alone: bool) -> None:
    """Raises CorpusError if a path of the user's does not exist, or is the name of a corpus among paths."""
    if path.exists():
        return
    if not alone and str(path) in NAMES:
        raise CorpusError(f"{path} is a corpus of its own: give it alone, or train on it too with --replay {path}")
    raise CorpusError(
        f"there is no corpus, file or folder named {path}: give {', '.join(NAMES)}, "
        f"or the path of a {KINDS} file or a folder of them{nearest(path, NAMES)}"
    )


def _fingerprinted(plan: Plan, exclude: Corpus | None, digest: Digest) -> dict:
    """Everything that determines the bytes of a prepared corpus, and the fingerprint of all that.

    A source is identified by its SHA-256. That is cached (see `files`), so a change that keeps a file's size and time
    goes unnoticed. The same holds for the prepared files.
    """
    about = {
        "name": utf8_safe(plan.name),
        "sources": [_source(path, digest) for path in plan.files],
        "validation_sources": [_source(path, digest) for path in plan.valid],
        "cleaning": plan.cleaning,
        "limit": plan.stories,
    }
    optional = {
        "tales": plan.tales,
        "fitted_to": plan.vocab.itos if plan.drops else None,
        "alphabet": plan.alphabet and plan.alphabet.described(),
        "apart_from": exclude and exclude.report["fingerprint"],
    }
    about |= {name: value for name, value in optional.items() if value}
    return about | {"fingerprint": _sha256_of([_VERSION, about])[:16]}


def _source(path: Path, digest: Digest) -> dict:
    return {"file": utf8_safe(path.name), "bytes": path.stat().st_size, "sha256": digest(path)}


def _cached(folder: Path, fingerprint: str, digest: Digest) -> dict | None:
    """The content of corpus.json if the cached corpus is intact, else None. Removes a damaged one."""
    if not folder.exists():
        return None
    try:
        report = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        whole = report.pop("sha256", None) == _sha256_of(report) and report["fingerprint"] == fingerprint
        whole = whole and report["files"] == {name: digest(folder / name) for name in report["files"]}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        print(f"{folder} is damaged: preparing it again", file=sys.stderr)
        shutil.rmtree(folder)
    return report if whole else None


def _sha256_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _build(plan: Plan, about: dict, folder: Path, progress: bool) -> dict:
    """Prepares the corpus in a temporary folder and renames that, so that no other process sees half of it.

    Returns the content of corpus.json without its own SHA-256.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.parent)
    size = sum(path.stat().st_size for path in plan.reads)
    disable = None if progress else True  # None: tqdm hides the bar where there is no terminal
    with tempfile.TemporaryDirectory(prefix=_PREPARING, dir=folder.parent) as temporary:
        unfinished = Path(temporary, "corpus")
        unfinished.mkdir()
        with tqdm(total=size, desc=f"preparing {plan.name}", unit="B", unit_scale=True, disable=disable) as bar:
            tally, plan = Tally(bar), with_vocabulary(plan, bar)
            counts = (write_text if plan.as_text else write_stories)(plan, unfinished, tally)
        report = about | counts | tally.report()
        report["files"] = {path.name: sha256(path) for path in sorted(unfinished.iterdir())}
        written = json.dumps(report | {"sha256": _sha256_of(report)}, indent=1)
        (unfinished / "corpus.json").write_text(written, encoding="utf-8")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster, and its corpus is used
                raise
    return report


def _remove_leftovers(cache: Path) -> None:
    """Removes the unfinished folders of killed processes: those that are more than a day old."""
    for left in cache.glob(f"{_PREPARING}*"):
        with suppress(FileNotFoundError):  # its process has just finished
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
