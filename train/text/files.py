"""Files of the cache: replaced whole, and their SHA-256 known without reading them again."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def remembered(folder: Path) -> Iterator[Callable[[Path], str]]:
    """A function from a file to its SHA-256, which reads the file only if size or time are not those of the record.

    The record is sources.json in the folder, from paths to [size, time of the last change in ns, SHA-256]. It is
    written if all went well; damaged or gone, files are read again. Two changes within one tick of the disk's clock
    that leave the size have the same time: the second one is not seen.
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
        there = {path: about for path, about in known.items() if Path(path).exists()}
        replace_file(record, json.dumps(there, indent=1).encode())


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file that others may be reading: they see the old one or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
