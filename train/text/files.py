"""Files of the cache: replaced whole, and their SHA-256 known without reading them again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

MOMENT = 100_000_000  # nanoseconds: more than the tick of a disk's clock, within which two changes have one time


class Hashes:
    """The SHA-256 of files; sources.json in a folder maps paths to [size, time of the last change in ns, SHA-256].

    A record that is damaged or gone only means that files are read again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.record, self.changed = folder, folder / "sources.json", False
        try:
            known = json.loads(self.record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            known = {}
        self.known = known if isinstance(known, dict) else {}

    def of(self, path: Path) -> str:
        """The SHA-256 of a file, which is read only if its size or time is not that of the record. Raises OSError."""
        now, stat = time.time_ns(), path.stat()
        match self.known.get(str(path.absolute())):
            case [stat.st_size, stat.st_mtime_ns, str(known)]:
                return known
        digest = sha256(path)
        if now - stat.st_mtime_ns > MOMENT:  # else it may change again without another time
            self.known[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns, digest]
            self.changed = True
        return digest

    def keep(self) -> None:
        """Writes the record if there is something new to it, without files that are gone."""
        if self.changed and os.access(self.folder, os.W_OK):
            known = {path: about for path, about in self.known.items() if Path(path).exists()}
            replace_file(self.record, json.dumps(known, indent=1).encode())


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
