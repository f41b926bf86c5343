"""Replaces a folder completely or not at all, even if something fails in between."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

AT_FDCWD = -100  # <fcntl.h>: paths are relative to the working directory
RENAME_EXCHANGE = 2  # <linux/fs.h>: swap the two names


def replace_folder(folder: Path, contents: Mapping[str, bytes], *, owned: Collection[str]) -> None:
    """Replaces `folder` by a folder with these files, once they are on the disk.

    Entries of `folder` whose names are not in `owned` are kept. Whatever error is raised, `folder` is completely the
    old one or completely the new one. On Linux the two swap names in one step. Where the system cannot do that (macOS,
    Windows, some network disks), two renames follow each other; after a crash between them the next call restores the
    old folder. Only one call may run at a time for a folder: the new one is prepared in its sibling `.<name>.new`.
    """
    new, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    _tidy(folder, new, old, owned)
    try:
        new.mkdir()
        for name, data in contents.items():
            with (new / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(new)
        if not folder.exists():
            os.rename(new, folder)
        elif not _exchange(new, folder):
            os.rename(folder, old)
            os.rename(new, folder)
        _sync(folder.parent)
    finally:
        _tidy(folder, new, old, owned)


def _sync(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk.

    Does nothing where that is not possible (Windows, some disks).
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps the two names in one step. Returns False where the system cannot do that."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    paths = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    return rename is not None and rename(*paths, RENAME_EXCHANGE) == 0


def _tidy(folder: Path, new: Path, old: Path, owned: Collection[str]) -> None:
    """Cleans up after a call, complete or not.

    Restores `folder` if it is missing, moves the entries that are not `owned` into it, and removes the folders that are
    half written or replaced. If one of these steps fails now, the next call does it.
    """
    with suppress(OSError):
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for leftover in filter(Path.exists, (new, old)):
            for entry in leftover.iterdir():
                if entry.name not in owned and folder.is_dir():
                    os.rename(entry, folder / entry.name)
            shutil.rmtree(leftover)
