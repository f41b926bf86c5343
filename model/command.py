"""What all commands share: paths with ~, one-line errors, and standard streams that may be closed, full or unread."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

BAD_USE, INTERRUPTED, READER_GONE = 2, 130, 141  # the last two as in shells: 128 + SIGINT, 128 + SIGPIPE


def expanded(text: str) -> str:
    """Returns the text with a `~` or `~user` at its start replaced by that home folder.

    A shell does this only to some words: not to `--out=~/x`, nor within quotes. A folder whose name begins with `~` can
    be given as `./~name`. As a `type` of argparse, refuses a user that does not exist.
    """
    home = os.path.expanduser(text)
    if home.startswith("~"):
        raise argparse.ArgumentTypeError(f"({text}) names no user's home folder: give the whole path, or ./{text}")
    return home


def path(text: str) -> Path:
    """Returns the path of a flag, with `~` expanded. As a `type` of argparse, refuses an empty one."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a path, or omit the flag")
    return Path(expanded(text))


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints the error on one line, without the usage, which --help prints."""
        self.exit(BAD_USE, f"{self.prog}: error: {message}\n")


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Calls `main`, and exits with the status that it returns.

    Ends with one line and status 2 if standard output cannot be written, and silently with 141, as other commands do,
    if nobody reads it any longer (`| head -1`). Without standard error the command runs on. Reading a closed standard
    input raises OSError.
    """
    # A closed stream is None in Python, and a file that is opened later gets its number. Its place is taken by
    # /dev/null, opened the other way round, so that its use fails.
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY), encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    sys.stdout, sys.stderr = _guarded(sys.stdout, _Output), _guarded(sys.stderr, _Notes)
    try:
        status = main()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        status = INTERRUPTED
    finally:
        sys.stdout.flush()  # here, because at exit Python would report a failure in words of its own
    sys.exit(status)


def stream_trouble(error: OSError) -> str:
    """Returns why a standard stream cannot be used."""
    return "it is closed" if error.errno == errno.EBADF else f"{error.strerror}"


class _Output(io.RawIOBase):
    """The raw stream below standard output. Its first failure ends the command; what is written later is dropped."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.raw = getattr(stream.buffer, "raw", stream.buffer)  # with -u the buffer is the raw stream
        self.stream = stream  # which closes the raw one when it is deleted
        self.failed = False

    def write(self, data: bytes) -> int | None:
        if self.failed:
            return len(data)
        try:
            return self.raw.write(data)
        except OSError as error:
            self.failed = True
            self.fail(error)
            return len(data)

    def fail(self, error: OSError) -> None:
        # No OSError: callers take that for trouble with the file that they are about to write.
        if isinstance(error, BrokenPipeError):
            raise SystemExit(READER_GONE)
        fix = "send it to a disk with room, or to /dev/null"
        print(f"error: standard output cannot be written ({stream_trouble(error)}): {fix}", file=sys.stderr)
        raise SystemExit(BAD_USE)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()


class _Notes(_Output):
    """The same below standard error, where a failure can be reported to nobody."""

    def fail(self, error: OSError) -> None:
        pass


def _guarded(stream: object, kind: type[_Output]) -> object:
    """Returns the text stream with `kind` below it, for any folder's name in any locale; a notebook's own as it is."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = kind(stream)
    lines, at_once = stream.line_buffering, stream.write_through
    buffered = raw if at_once else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", None, lines, at_once)
