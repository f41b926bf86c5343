"""Where the page's source is on the web."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote


def source(environment: Mapping[str, str] = os.environ) -> str:
    """The address of the files of the Space that serves this page; "" on another machine, where nothing names one."""
    space = environment.get("SPACE_ID", "")
    return f"https://huggingface.co/spaces/{space}/tree/main" if space else ""


def card(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The address of a model's card there; "" without such a place."""
    files = source(environment).replace("/tree/", "/blob/")
    return f"{files}/artifacts/{quote(name)}/README.md" if files else ""
