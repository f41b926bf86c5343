"""A lock on the output folder of a run. The system releases it when the process ends, however it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # errors of network disks without locks


@contextmanager
def exclusive_output(out: Path, path: Path) -> Iterator[None]:
    """Keeps other runs from writing to `out`: locks the file `path`. At the end, removes it and its folder if empty.

    What counts is the system's lock on the file (flock), so the file of a killed process does not block a new run. If
    the system has no locks (Windows, some network disks), nothing is locked. Raises ValueError if another process holds
    the lock, or if the file cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ValueError(f"{out} cannot be created ({error.strerror}): choose another --out") from error
    with file:
        # no link left: the last holder has just deleted the file and is about to end
        if not try_lock(file.fileno()) or not os.fstat(file.fileno()).st_nlink:
            fix = "wait until it ends, stop it, or choose another --out"
            raise ValueError(f"{out} is being trained by another process: {fix}")
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)  # while we hold it: afterwards it may belong to another process
                path.parent.rmdir()


def try_lock(descriptor: int) -> bool:
    """Tries to lock an open file. False if another process holds the lock; True also if the system has no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        return True
    except OSError as error:
        if error.errno not in (*UNSUPPORTED, errno.EAGAIN):
            raise
        return error.errno != errno.EAGAIN
    return True
