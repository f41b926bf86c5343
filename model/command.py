"""What all commands share: the reading of paths on a command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


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
