"""Sends FUZZ_REQUESTS generated requests to every address: each gets an answer, or a refusal that names the field."""

from __future__ import annotations

import json
import os
import re
import sys
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import ROOT, serve_tiny

from tests.torture.record import record

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "120"))
COMMAND = "FUZZ_REQUESTS=2000 .venv/bin/python -m pytest tests/test_fuzz.py"
# What an answer must not contain: parts of a traceback, and paths of the server.
INSIDE = ("Traceback", 'File "', "site-packages", "/app.py", str(ROOT), sys.prefix, sys.base_prefix)
SAMPLER = {"temperature": 0.8, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SETTINGS = {"length": 20, **SAMPLER, "seed": 7, "drafts": 2, "beams": 1}
# The parameters of every endpoint, public and private, with valid values.
ENDPOINTS = {
    "tell": {"model": "tiny", "prompt": "Tom", **SETTINGS},
    "score": {"model": "tiny", "text": "Tom ran."},
    "next_characters": {"model": "tiny", "prompt": "Tom", **SAMPLER, "count": 3},
    "models": {},
    "tell_here": {"model": "tiny", "prompt": "Tom", **SETTINGS},
    "tell_another": {"model": "tiny", "prompt": "Tom", **SETTINGS},
    "go_on": {"model": "tiny", "story": "Tom ran", "prompt_length": 3, **SETTINGS},
    "look_story": {"model": "tiny", "text": "Tom ran."},
    "colour": {"model": "tiny", "text": "Tom ran."},
    "look": {"model": "tiny", "text": "Tom ran.", "index": 3, **SAMPLER},
    "attention_here": {"model": "tiny", "text": "Tom ran.", "index": 3, "layer": 1, "head": 1},
    "compare": {"prompt": "Tom", **SETTINGS},
}
PUBLIC = ("tell", "score", "next_characters", "models")
ENVELOPE = (
    "data",
    "fn_index",
    "session_hash",
    "event_id",
    "trigger_id",
    "body",
    "batched",
    "event_data",
    "simple_format",
)

TEXTS = st.text(max_size=30) | st.sampled_from(
    ["../../etc/passwd", "tiny", "Tom", "{}", "%00", "a" * 4001, "\ud800", "<b>"]
)
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-3, 300) | st.floats() | st.sampled_from([10**400, 1e308, -0.0])
FILE = st.just({"path": "/etc/passwd", "url": "file:///etc/passwd", "meta": {"_type": "gradio.FileData"}})
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | FILE
VALUES = st.recursive(
    LEAVES, lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(TEXTS, deeper, max_size=3), max_leaves=6
)
BROKEN = st.binary(max_size=50) | st.sampled_from(
    [b"", b"{", b"[" * 100_000, b'{"data":' * 20_000, b"null", b"\xff\xfe{}"]
)


@st.composite
def arguments(draw: st.DrawFn, name: str) -> dict[str, object]:
    """The arguments of an endpoint, most of them valid."""
    return {
        field: draw(VALUES) if draw(st.integers(0, 4)) == 0 else fitting for field, fitting in ENDPOINTS[name].items()
    }


@st.composite
def envelopes(draw: st.DrawFn, body: dict[str, object]) -> bytes:
    """The body as JSON, sometimes with fields that Gradio reads, of any value; or something that is not JSON."""
    if draw(st.integers(0, 9)) == 0:
        return draw(BROKEN)
    if draw(st.integers(0, 3)) == 0:
        body = body | draw(st.dictionaries(st.sampled_from(ENVELOPE), VALUES, max_size=2))
    return json.dumps(body).encode()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A method, a path and a body."""
    kind, name = (
        draw(st.sampled_from(["call"] * 4 + ["v2", "join", "join", "mcp", "step", "get"])),
        draw(st.sampled_from(sorted(ENDPOINTS))),
    )
    given = draw(arguments(name))
    path = name if draw(st.integers(0, 9)) else draw(TEXTS.filter(str.isprintable))
    if kind == "call":
        values = list(given.values())
        if draw(st.integers(0, 7)) == 0:
            values = draw(st.lists(VALUES, max_size=12))
        return "POST", f"/gradio_api/call/{path}", draw(envelopes({"data": values}))
    if kind == "v2":
        return "POST", f"/gradio_api/call/v2/{path}", draw(envelopes(given))
    if kind == "join":
        body = {
            "data": list(given.values()),
            "fn_index": draw(st.integers(-1, 60)),
            "session_hash": "fuzz",
            "trigger_id": None,
        }
        return "POST", "/gradio_api/queue/join", draw(envelopes(body))
    if kind == "mcp":
        call = {"name": name if draw(st.booleans()) else draw(TEXTS), "arguments": given}
        method = draw(st.sampled_from(["tools/call"] * 4 + ["tools/list", "initialize", "resources/read", "ping"]))
        return (
            "POST",
            "/gradio_api/mcp/",
            draw(envelopes({"jsonrpc": "2.0", "id": 1, "method": method, "params": call})),
        )
    if kind == "step":
        step = draw(
            st.sampled_from(["cancel", "reset", "upload", "component_server", "run/tell", "api/tell", "stream/x"])
        )
        body = {
            "session_hash": draw(VALUES),
            "fn_index": draw(VALUES),
            "event_id": draw(VALUES),
            "data": [draw(VALUES)],
        }
        return "POST", f"/gradio_api/{step}", draw(envelopes(body))
    where = draw(
        st.sampled_from(
            [
                "",
                "file=",
                "proxy=",
                "heartbeat/",
                "call/tell/",
                "queue/data?session_hash=",
                "custom_component/",
                "info?page=",
            ]
        )
    )
    return "GET", f"/gradio_api/{where}{draw(TEXTS)}", b""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve_tiny(tmp_path_factory.mktemp("fuzz"), complaints=True) as server:  # Gradio logs what it cannot read
        yield server


def ask(client: httpx.Client, method: str, path: str, body: bytes) -> tuple[int, str, str | None]:
    """The status of the first answer, all text of the answers, and the refusal at the end of a stream, if any."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    url = client.base_url.copy_with(raw_path=quote(path.encode("utf-8", "surrogatepass"), safe="/?=&%.:").encode())
    with client.stream(method, url, content=body, headers=headers) as answer:
        if "heartbeat" in path:  # this stream has no end
            return answer.status_code, next(answer.iter_text(), ""), None
        text = answer.read().decode()
    if answer.status_code != 200 or not text.startswith('{"event_id"'):
        return answer.status_code, text, None
    event = json.loads(text)["event_id"]
    stream = f"call/any/{event}"
    if path.endswith("/queue/join"):
        stream = f"queue/data?session_hash={json.loads(body)['session_hash']}"
    with client.stream("GET", f"/gradio_api/{stream}", timeout=30) as answers:
        text += "\n" + answers.read().decode()
    messages = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    last = next(it for it in reversed(messages) if not (isinstance(it, dict) and it.get("msg") == "close_stream"))
    failed = "event: error" in text or (isinstance(last, dict) and last.get("success") is False)
    refused = (last.get("output") or last).get("error") if failed else None
    return answer.status_code, text + ("\nevent: error" if failed else ""), refused


def names_a_field(text: str) -> bool:
    """Whether a refusal contains the name of a field or an endpoint as a word, or is an error of JSON-RPC."""
    fields = {field for each in ENDPOINTS.values() for field in each} | {*ENVELOPE, *ENDPOINTS, "endpoint"}
    return not fields.isdisjoint(re.findall(r"\w+", text)) or '"code":-32' in text


def test_whatever_is_asked_is_answered_or_refused_by_name(server):
    tried = {"answered": 0, "refused": 0}

    @settings(max_examples=REQUESTS, suppress_health_check=list(HealthCheck), database=None)
    @given(requests())
    def fuzz(request):
        method, path, body = request
        status, text, refused = ask(client, method, path, body)
        assert status < 500, text
        assert not [mark for mark in (*INSIDE, str(server.log.parent)) if mark in text], text
        if status >= 400 or refused:
            assert status in (404, 405) or names_a_field(refused or text), text
        tried["refused" if status >= 400 or "event: error" in text else "answered"] += 1

    with httpx.Client(base_url=server.url, timeout=30) as client:
        fuzz()
        told = ask(
            client, "POST", "/gradio_api/call/tell", json.dumps({"data": [*ENDPOINTS["tell"].values()]}).encode()
        )
    assert told[0] == 200 and told[2] is None
    assert min(tried.values()) > REQUESTS / 10
    outcome = (
        f"{tried['answered']:,} answered, {tried['refused']:,} refused with the name of the wrong field; no status "
        "500, no traceback, no path of the server"
    )
    record(
        "generated requests to every endpoint, over HTTP and MCP",
        sum(tried.values()),
        outcome,
        COMMAND,
        section="The page",
    )
