"""Locks that the system drops when their holder ends, however it ends: on an artifact in the making, on scratch."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import tempfile
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


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, gone in the end. Those that killed processes left there are removed first."""
    for left in parent.glob(f"{prefix}*"):
        if (descriptor := _hold_folder(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    folder, descriptor = _new_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _new_folder(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """Another one where somebody who looks for leftovers removes it before it is held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = _hold_folder(folder)
        if descriptor is None and folder.exists():
            return folder, None  # held by somebody about to remove it, or by nobody where nothing can be locked
        if descriptor is not None:
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _hold_folder(folder: Path) -> int | None:
    """An open folder that is now ours; None where it is not, or cannot be."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # gone meanwhile; and Windows opens no folders
        return None
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def try_lock(descriptor: int) -> bool | None:
    """Whether this open file or folder is now ours; None where the system does not say."""
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
        got = try_lock(descriptor)
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
