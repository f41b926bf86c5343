"""Files of the cache: replacing one atomically, knowing its SHA-256 without reading it again, errors of the disk."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from train.text.reading import CorpusError


@contextmanager
def cached_sha256(folder: Path) -> Iterator[Callable[[Path], str]]:
    """Gives a function that returns a file's SHA-256. It reads the file only if size or time differ from the record.

    The record is sources.json in the folder: it maps a path to [size, time of the last change in ns, SHA-256]. It is
    written at the end if there was no error. If it is damaged or missing, files are read again. Two changes within one
    tick of the disk's clock that keep the size have the same time, so the second one goes unnoticed.
    """
    record = folder / "sources.json"
    try:
        known = dict(json.loads(record.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        known = {}
    before = known.copy()

    def digest(path: Path) -> str:
        stat = path.stat()
        match known.get(str(path.absolute())):
            case [stat.st_size, stat.st_mtime_ns, str(found)]:
                return found
        found = sha256(path)
        known[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns, found]
        return found

    yield digest
    if known != before and os.access(folder, os.W_OK):
        existing = {path: entry for path, entry in known.items() if Path(path).exists()}
        replace_file(record, json.dumps(existing, indent=1).encode())


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file atomically: a process that reads it meanwhile sees the old content or the new content."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors_explained(data: str, cache: Path) -> Iterator[None]:
    """Turns an error of the disk into a CorpusError that says how to fix it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space, or put the cache on another disk"
            raise CorpusError(f"no space left to prepare {data} in {cache}: {fix}") from None
        raise CorpusError(f"{error.filename or cache}: {error.strerror or error}") from None
