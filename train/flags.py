"""Command lines: a mistake is reported in one line that names the fix."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}  # a file's name may hold a newline
RANK_DELAY = 5.0  # seconds before a rank other than 0 reports an error


def nearest(name: object, names: Iterable[str]) -> str:
    """Returns "; did you mean X?" if a name X is similar to `name`, else ""."""
    close = get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def refuse(message: str) -> int:
    """Prints an error message to standard error. Returns the exit code for a command that cannot run, 2.

    With torchrun, rank 0 prints first, and its exit ends the other ranks. A rank that still runs prints later.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(RANK_DELAY)
        message = f"rank {rank}: {message}"
    print(f"error: {message.translate(CONTROLS)}", file=sys.stderr, flush=True)
    return 2


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors. For an unknown flag it suggests the most similar one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(refuse(message))

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown flag {unknown[0]}{nearest(unknown[0], flags)}")
        return known
