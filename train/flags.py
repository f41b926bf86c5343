"""Command lines whose mistakes are answered in one line that names the mend."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn


def nearest(name: object, names: Iterable[str]) -> str:
    """ "; did you mean X?" where one of the names is much like `name`, else nothing."""
    close = get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and the nearest flag for an unknown one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown flag {unknown[0]}{nearest(unknown[0], flags)}")
        return known
