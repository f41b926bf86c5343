"""SHA-256 of files, from a record where a file is as it was when it was last read."""

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
            fresh = self.record.with_name(f".{self.record.name}.{os.getpid()}")
            known = {path: about for path, about in self.known.items() if Path(path).exists()}
            fresh.write_text(json.dumps(known, indent=1), encoding="utf-8")
            fresh.replace(self.record)  # another run may be reading it


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
