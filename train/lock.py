"""A lock that the system drops when its holder ends, however it ends: on an artifact in the making."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # of some network disks


@contextmanager
def alone_at(out: Path, path: Path) -> Iterator[None]:
    """Within, no other run may write to `out`: holds the lock file `path`, and removes it, and its empty folder.

    A file that a killed process left is taken over: what counts is the system's lock on it (flock). Where the system
    has none (Windows, some network disks) nothing is held. Raises ValueError where another process holds it, or it
    cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ValueError(f"{out} cannot be made ({error.strerror}): choose another --out") from error
    with file:
        # without a name left, its last holder is just ending
        if not hold(file.fileno()) or not os.fstat(file.fileno()).st_nlink:
            mend = "wait until it ends, stop it, or choose another --out"
            raise ValueError(f"{out} is being trained by another process: {mend}")
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)  # while it is held: afterwards it may be another's
                path.parent.rmdir()


def hold(descriptor: int) -> bool:
    """Whether no other process has the lock on an open file; it is then ours where the system has locks."""
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
