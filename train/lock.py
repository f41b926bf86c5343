"""A lock that the system drops when its holder ends, however it ends: on an artifact in the making."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # of some network disks


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, and removes it in the end, and its folder if it is empty.

    A file that a killed process left is taken over: what counts is the system's lock on it (flock). Where the system
    has none (Windows, some network disks) nothing is held. Raises BlockingIOError where another process holds it, and
    another OSError where the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        if not os.fstat(file.fileno()).st_nlink:
            raise BlockingIOError  # its last holder is just ending, and has removed the file
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: afterwards it may be another's
            with suppress(OSError):
                path.parent.rmdir()
