"""All that the page does with what Gradio does not document. Its test fails once Gradio does without one of these.

Nobody has reported these to Gradio's issues, as far as a search for them shows.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any

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
    """The numbers of the functions that run on the server: Gradio answers a call of another number with a 500."""
    return {number for number, function in page.fns.items() if function.fn is not None}


def parts(page: Blocks, names: Container[str]) -> dict[str, Any]:
    """The parts of a page with these ids. Gradio documents no list of a page's parts."""
    return {part.elem_id: part for part in page.blocks.values() if getattr(part, "elem_id", None) in names}


def ask_anew(scope: Scope) -> None:
    """Makes Gradio write the documentation that a request asks for.

    Otherwise it keeps the one of the first request, with the address that this request had in Host or X-Forwarded-Host,
    and shows that to others. It keeps none for a page that is named; the name of the first page is empty.
    """
    scope["query_string"] += b"&page="
