"""All that the page does with what Gradio keeps to itself. A test of each fails once Gradio does without it."""

from __future__ import annotations

import json
from collections.abc import Container

from gradio import Blocks
from starlette.types import Scope


def answer_tools_in_json(page: Blocks) -> None:
    """Makes the tools of a launched page answer in JSON, and each of several values by itself.

    Gradio writes lists and objects in Python's notation, `{'model': None}`, which other languages cannot read, and
    several values as one tuple, unless the caller asks for progress.
    """
    server = page.mcp_server_obj
    write = server.postprocess_output_data

    def write_json(data: list[object], root_url: str) -> list[object]:
        data = data[0] if isinstance(data[0], tuple) else data
        return write([it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in data], root_url)

    server.postprocess_output_data = write_json


def functions(page: Blocks) -> Container[object]:
    """The numbers of the functions that run on the server: Gradio fails on a call of another number."""
    return {number for number, function in page.fns.items() if function.fn is not None}


def forget_address(scope: Scope) -> None:
    """Makes Gradio write the page's address anew into its documentation.

    It keeps what the first request for the documentation said in Host or X-Forwarded-Host, and shows it to others.
    """
    scope["app"].api_info = None
