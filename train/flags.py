"""Command lines whose mistakes are answered in one line that names the mend."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

LATER = 5.0  # seconds


def nearest(name: object, names: Iterable[str]) -> str:
    """ "; did you mean X?" where one of the names is much like `name`, else nothing."""
    close = get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def refuse(message: str) -> int:
    """Says on standard error what cannot be run; the exit code for it, 2.

    Of the ranks of torchrun the first one speaks, and its end ends all. Another one, if it is still there, comes later.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(LATER)
        message = f"rank {rank}: {message}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and the nearest flag for an unknown one."""

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
