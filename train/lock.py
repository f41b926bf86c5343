"""A lock that the system drops when its holder ends, however it ends: on an artifact in the making."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # of some network disks


class Locked(ValueError):
    """Somebody else holds the lock; the message is who."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which names this process, and removes it in the end, and its folder if it is empty.

    A file that a killed process left is taken over: what counts is the system's lock on it (flock), which no pid that
    is used again can keep. Where the system has none (Windows, some network disks) nothing is held. Raises Locked, and
    OSError where the file cannot be made.
    """
    descriptor = _take(path)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)
        with suppress(OSError):
            path.parent.rmdir()


def _try(descriptor: int) -> bool | None:
    """Whether this open file is now ours; None where the system does not say."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    return True


def _take(path: Path) -> int | None:
    """The open lock file, locked and with our name in it; None where nothing can be locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # its last holder has just removed the folder
            continue
        got = _try(descriptor)
        if got is None:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        if not got:
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            raise Locked(_named(holder))
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)  # its last holder has just removed it
    with suppress(OSError):  # a full disk: the lock holds without a name as well
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {platform.node()}".encode())
    return descriptor


def _named(holder: str) -> str:
    pid, _, host = holder.partition(" ")
    return f"process {pid or 'unknown'}" + (f" on {host}" if host and host != platform.node() else "")
