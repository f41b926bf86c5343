"""The page uses what Gradio documents. The exceptions are in page/gradio_fixes.py, and Gradio still needs each."""

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client.documentation import generate_documentation

from page.gradio_fixes import answer_tools_in_json, ask_anew, functions

ROOT = Path(__file__).parent.parent
PATHS = [ROOT / "app.py", *sorted(ROOT.glob("page/*.py"))]
MENDED = "Gradio has mended this: remove {} from page/gradio_fixes.py"
TOOL_CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "report", "arguments": {}}}
STREAMED = {"Accept": "application/json, text/event-stream"}
PUBLIC = {
    "_fields": "Python documents it, of a named tuple",
    "block_thread": "what launch(prevent_thread_lock=True) puts off; it has no underscore, and a docstring",
    "elem_id": "a documented parameter",
    "session_hash": "of gr.Request, in its documentation's text",
    "host": "Starlette documents request.client.host",
}


def report() -> tuple[str, dict[str, str | None]]:
    """Answers two values. Gradio reads their types themselves, so nothing is imported from __future__ here."""
    return "it's", {"of": None}


def observe() -> dict[str, Any]:
    """What Gradio does on a page without and with each fix, and what it holds for that page.

    This runs in a process of its own, because Gradio leaves sockets and loops to the garbage collector.
    """
    with gr.Blocks(analytics_enabled=False) as page:
        text = gr.Textbox()
        text.change(None, text, text, js="text => text")
        gr.api(report, api_name="report")
    page.launch(prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False, mcp_server=True)
    api, scope = f"{page.local_url}gradio_api", {"query_string": b""}
    ask_anew(scope)
    listed = httpx.get(f"{page.local_url}config").json()["dependencies"]
    seen = {
        "tools": answered(api),
        "documentation": documentation(api, b""),
        "fixed documentation": documentation(api, scope["query_string"]),
        "unknown functions": [joined(api, number) for number in (-1, len(listed))],
        "known functions": [joined(api, number) for number in functions(page)],
        "functions": [list(functions(page)), [it["id"] for it in listed if it["api_name"] == "report"]],
        "undocumented": sorted(undocumented(page)),
    }
    answer_tools_in_json(page)
    return seen | {"fixed tools": answered(api)}


def answered(api: str) -> list[str]:
    """The texts with which the tool answers."""
    said = httpx.post(f"{api}/mcp/", json=TOOL_CALL, headers=STREAMED).text
    return [part["text"] for part in json.loads(said.split("data: ")[1])["result"]["content"]]


def documentation(api: str, query: bytes) -> list[str]:
    """What is told to a visitor of another address, and then to one of this."""
    asked = [{"X-Forwarded-Host": "other.example"}, {}]
    return [httpx.get(f"{api}/info?{query.decode()}", headers=headers).text for headers in asked]


def joined(api: str, number: int) -> int:
    """The status of a call of the function with this number."""
    try:
        return httpx.post(f"{api}/queue/join", json={"data": [], "fn_index": number, "session_hash": "s"}).status_code
    except httpx.ReadError:  # after a 500 the server closes, sometimes before the client has read the answer
        return 500


def undocumented(page: gr.Blocks) -> set[str]:
    """The attributes of what Gradio holds for a page, without those that its documentation names."""
    held = {id(it): it for it in (page, page.app, gr.I18n(en={}))}
    names, todo = set(), list(held.values())
    for it in todo:  # grows inside the loop
        names |= set() if isinstance(it, dict) else set(dir(it))
        parts = it.values() if isinstance(it, dict) else vars(it).values()
        new = [each for each in parts if isinstance(each, dict) or type(each).__module__.startswith("gradio.")]
        todo += [each for each in new if id(each) not in held]
        held |= {id(each): each for each in new}
    for section in generate_documentation().values():
        names -= {name for it in section for name in [it["name"], *(method["name"] for method in it["fns"])]}
    return names


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_tools_answer_in_json(seen: dict[str, Any]) -> None:
    right = ["it's", '{"of": null}']
    assert seen["tools"] != right, MENDED.format("answer_tools_in_json")
    assert seen["fixed tools"] == right


def test_a_call_of_an_unknown_function(seen: dict[str, Any]) -> None:
    assert 500 in seen["unknown functions"], MENDED.format("functions")
    ours, listed = seen["functions"]
    assert ours == listed and seen["known functions"] == [200]


def test_the_documentation_has_the_address_of_who_asks(seen: dict[str, Any]) -> None:
    first, second = seen["documentation"]
    assert first == second, MENDED.format("ask_anew")
    other, own = seen["fixed documentation"]
    assert "//other.example" in other and "//127.0.0.1" in own and "other.example" not in own


def on_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def everyday() -> set[str]:
    """The names of attributes that Python's own types have, or that the page gives."""
    names = {name for it in (str, dict, Path, Thread, IPv4Address, os, asyncio) for name in dir(it)}
    for path in [*PATHS, ROOT / "model" / "storyteller.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and on_self(node):
                names.add(node.attr)
    return names


def test_what_gradio_does_not_document_stands_in_one_file(seen: dict[str, Any]) -> None:
    names = set(seen["undocumented"]) - everyday()
    assert {"_queue", "fns", "blocks", "active_jobs", "mcp_server_obj", "translations"} <= names
    private = {}
    for path in PATHS:
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        used = {node.attr for node in nodes if not on_self(node) and ast.unparse(node.value) != "gr"} - PUBLIC.keys()
        private[path.name] = {name for name in used if name in names or re.match("_(?!_)", name)}
    assert len(private.pop("gradio_fixes.py")) <= 5
    assert {name: found for name, found in private.items() if found} == {}


def test_imports_are_documented() -> None:
    """Of Gradio what its documentation lists, of Starlette what has no underscore, of uvicorn and FastAPI nothing."""
    documented = {it["name"] for section in generate_documentation().values() for it in section}
    for path in PATHS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                home, names = node.module.split(".")[0], {alias.name for alias in node.names}
                assert home not in ("uvicorn", "fastapi", "gradio_client") and "._" not in node.module, path
                assert home != "gradio" or names <= documented, (path, names)
            elif isinstance(node, ast.Import):
                assert {"uvicorn", "fastapi", "starlette", "gradio_client"}.isdisjoint(it.name for it in node.names)


if __name__ == "__main__":
    print(json.dumps(observe()))
