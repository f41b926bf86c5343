"""Attacks from Gradio's advisories, foreign origins, endless bodies, clients that do not read: refused or harmless."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import socket
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
import uvicorn
from serving import serve_tiny

from page import request_checks
from page.turns import Turns
from tests.torture.record import record

COMMAND = ".venv/bin/python -m pytest tests/test_request_checks.py"
API = "/gradio_api"
SECRET = "this line is in a file beside app.py"
TELL = {
    "model": "tiny",
    "prompt": "Tom",
    "length": 5,
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "seed": 7,
    "drafts": 1,
    "beams": 1,
}
FILE = {"path": "{secret}", "url": "{outside}", "orig_name": "x", "meta": {"_type": "gradio.FileData"}}
FORM = "multipart/form-data; boundary=x"
UPLOAD = '--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n<script>1</script>\r\n--x--\r\n'


def join(*data: object, function: int = 0) -> str:
    return json.dumps({"data": list(data), "fn_index": function, "session_hash": "s"})


def call(**changes: object) -> str:
    return json.dumps({"data": list((TELL | changes).values())})


# Advisory, method, path, body, type of the body. {secret}: a file beside app.py; {outside}: another server.
ATTEMPTS = [
    ("CVE-2023-51449", "GET", f"{API}/file={{secret}}", None, None),
    ("CVE-2023-51449", "GET", f"{API}/file=../../../../..{{secret}}", None, None),
    ("CVE-2023-51449", "GET", "/file={secret}", None, None),
    ("CVE-2024-0964", "POST", f"{API}/queue/join", join("{secret}"), None),
    ("CVE-2024-1183", "GET", f"{API}/file={{outside}}", None, None),
    ("CVE-2024-1561", "POST", f"{API}/component_server", json.dumps(
        {"component_id": 1, "data": "{secret}", "fn_name": "move_resource_to_block_cache", "session_hash": "s"}), None),
    ("CVE-2024-1728", "POST", f"{API}/queue/join", join([FILE]), None),
    ("CVE-2024-2206", "GET", f"{API}/proxy={{outside}}", None, None),
    ("CVE-2024-4325", "POST", f"{API}/call/tell", call(prompt=FILE), None),
    ("CVE-2024-4941", "POST", f"{API}/call/tell", call(model=json.dumps(FILE)), None),
    ("CVE-2024-8021", "GET", f"{API}/file=https://example.com", None, None),
    ("CVE-2024-8966", "POST", f"{API}/upload", "--" + "x" * 200_000, f"multipart/form-data; boundary={'x' * 5000}"),
    ("CVE-2024-10648", "POST", f"{API}/call/tell", call(prompt=FILE | {"path": "../../app.py"}), None),
    ("CVE-2024-12217", "GET", f"{API}/file={{secret}}::$DATA", None, None),
    ("CVE-2024-34510", "GET", f"{API}/file=//example.com/share/x", None, None),
    ("CVE-2024-34511", "POST", f"{API}/component_server", json.dumps(
        {"component_id": 1, "data": [], "fn_name": "launch", "session_hash": "s"}), None),
    ("CVE-2024-47164", "GET", f"{API}/file=/app/..{{secret}}", None, None),
    ("CVE-2024-47166", "GET", f"{API}/custom_component/x/client/component/../../../app.py", None, None),
    ("CVE-2024-47167", "POST", f"{API}/call/tell", call(prompt=FILE | {"path": "{outside}"}), None),
    ("CVE-2024-47168", "GET", "/monitoring", None, None),
    ("CVE-2024-47868", "POST", f"{API}/call/tell", call(seed=FILE), None),
    ("CVE-2024-47869", "GET", "/monitoring/guess", None, None),
    ("CVE-2024-47872", "POST", f"{API}/upload", UPLOAD.replace("{name}", "x.html"), FORM),
    ("CVE-2025-23042", "GET", f"{API}/file=APP.PY", None, None),
    ("CVE-2025-48889", "POST", f"{API}/run/flag", join(FILE), None),
    ("CVE-2026-28414", "GET", "/static//etc/passwd", None, None),
    ("CVE-2026-28414", "GET", "/assets/..%2f..%2f..%2f..%2f..%2fetc/passwd", None, None),
    ("CVE-2026-28415", "GET", "/logout?_target_url=https://example.com", None, None),
    ("CVE-2026-28416", "GET", f"{API}/proxy=http://169.254.169.254/latest/meta-data", None, None),
    ("GHSA-2mr9-9r47-px2g", "GET", f"{API}/proxy=https://a.hf.space/x", None, None),
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("request_checks")
    (home / "secret.txt").write_text(SECRET)
    return home


@pytest.fixture(scope="module")
def server(home):
    with serve_tiny(home, complaints=True) as server:  # Gradio logs some of what it refuses
        yield server


@pytest.fixture(scope="module")
def outside():
    """The address of a server that the page must never call, and the list of calls that it got."""
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}/asked", asked
        listener.shutdown()


def ask(server, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, dict, str]:
    """Status, headers and text of an answer. The path is sent as it is."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    fields = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body and body.encode(), fields)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


def attempt(server, method: str, path: str, body: str | None, kind: str | None) -> tuple[int, str]:
    """The status of an attempt, and all text that it was answered, including the stream of its event."""
    status, _, text = ask(server, method, path, body, **({"Content_Type": kind} if kind else {}))
    if status == 200 and text.startswith('{"event_id"'):
        text += ask(server, "GET", f"{API}/call/any/{json.loads(text)['event_id']}")[2]
    return status, text


def test_what_the_advisories_describe_is_refused(server, home, outside):
    address, asked = outside
    for advisory, method, path, body, kind in ATTEMPTS:
        fill = {"{secret}": str(home / "secret.txt"), "{outside}": address}
        for mark, value in fill.items():
            path, body = path.replace(mark, quote(value, safe="/:")), body and body.replace(mark, value)
        status, text = attempt(server, method, path, body, kind)
        assert 400 <= status < 500 or "event: error" in text, (advisory, path, status, text)
        assert not [mark for mark in (SECRET, "root:", "import gradio") if mark in text], advisory
    assert asked == []
    assert sorted(path.name for path in home.iterdir()) == ["app.py", "artifacts", "log", "model", "page", "secret.txt"]
    names = sorted({advisory for advisory, *_ in ATTEMPTS})
    record(
        f"what {len(names)} advisories about Gradio describe: {', '.join(names)}",
        len(ATTEMPTS),
        "all refused; no file read or written, no other server called",
        COMMAND,
        section="The page",
    )


def test_only_the_page_s_own_files_are_served(server, home):
    inside = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    tried = 0
    for path in [*inside, "../.bashrc", "/etc/hostname", "/proc/self/environ"]:
        for before in (
            "/",
            "//",
            "/static/",
            "/assets/",
            "/svelte/",
            f"{API}/file=",
            f"{API}/",
            "/static/../",
            "/%2e%2e/",
        ):
            status, _, text = ask(server, "GET", f"{before}{path}".replace(" ", "%20"))
            assert status in (403, 404) and len(text) < 200, (before, path, status)
            tried += 1
    record("files of the server asked for by name", tried, "none was found", COMMAND, section="The page")


@pytest.mark.parametrize(
    "origin", ["https://example.com", "null", "http://localhost.example.com", "http://127.0.0.1.example.com"]
)
def test_a_foreign_page_cannot_read_what_a_local_one_answers(server, origin):
    for method in ("GET", "OPTIONS"):
        headers = ask(server, method, "/config", Origin=origin, Access_Control_Request_Method="GET")[1]
        assert "access-control-allow-origin" not in headers
    assert ask(server, "GET", "/config", Origin=server.url)[1]["access-control-allow-origin"] == server.url


def test_every_answer_has_the_security_headers(server):
    for path in ("/", "/config", "/nothing", "/static/img/logo_nosize.svg"):
        headers = ask(server, "GET", path)[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
        assert headers["content-security-policy"] == "object-src 'none'; base-uri 'self'"
        assert "x-frame-options" not in headers


def test_no_proxy_on_the_way_gathers_or_keeps_a_stream_of_events(server):
    functions = json.loads(ask(server, "GET", "/config")[2])["dependencies"]
    function = next(it["id"] for it in functions if it["api_name"] == "models")
    ready = json.dumps({"data": [], "fn_index": function, "session_hash": "stream"})
    server.post("/queue/join", ready)
    called = server.post("/call/models", '{"data": []}')["event_id"]
    hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    streams = {
        f"{API}/queue/data?session_hash=stream": None,
        f"{API}/queue/data?session_hash=unknown": None,
        f"{API}/call/models/{called}": None,
        f"{API}/heartbeat/stream": None,
        f"{API}/mcp/": hello,
    }
    accepted = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    for path, body in streams.items():
        asked = urllib.request.Request(server.url + path, body, accepted)
        with urllib.request.urlopen(asked, timeout=10) as answer:  # not read to its end, which may never come
            assert answer.headers["Content-Type"].startswith("text/event-stream"), path
            assert answer.headers.get_all("X-Accel-Buffering") == ["no"], path  # by default nginx gathers what it sends
            assert answer.headers.get_all("Cache-Control") == ["no-cache"], path
    assert "x-accel-buffering" not in ask(server, "GET", "/config")[1]


def test_the_documentation_shows_each_reader_its_own_address(server):
    ask(server, "GET", f"{API}/info", X_Forwarded_Host="evil.example.com")
    assert "evil.example.com" not in ask(server, "GET", f"{API}/info")[2]


def refused(server, path: str, body: str) -> tuple[int, str]:
    status, _, text = ask(server, "POST", f"{API}/{path}", body)
    return status, json.loads(text)["detail"]


def test_unknown_names_are_refused(server):
    for path in ("call/nothing", "call/v2/nothing", "call/v2/go_on", "call/go_on", "call/../tell", "run/tell"):
        assert refused(server, path, '{"data": []}') == (404, "there is nothing here")
    told = refused(server, "call/v2/score", '{"story": "Tom"}')
    assert told == (400, "a value is no parameter of the endpoint: story")
    assert refused(server, "call/tell", '{"data": ["tiny"]}') == (400, "data must have 10 values here, not 1")
    session = "session_hash has no use here: every call is a session of its own"
    assert refused(server, "call/tell", '{"data": [], "session_hash": "x"}') == (400, session)


def test_what_gradio_fails_on_is_refused(server):
    paths = ["/?page=x", "/config?page=x"]
    paths += [f"/static/{'a' * 300}", f"/assets/{'a' * 300}", f"/assets/{'%C3%A9' * 200}"]
    for path in paths:
        status, _, text = ask(server, "GET", path)
        assert (status, text) == (404, '{"detail":"there is nothing here"}')
    names = ("a<gradio-sep>b", "", "a b", "é", "a" * 101)
    for name in names:
        for path in ("queue/join", "cancel", "reset"):
            body = json.dumps({"data": [], "fn_index": 0, "session_hash": name, "event_id": "x"})
            assert refused(server, path, body) == (400, "session_hash must be 1 to 100 letters, digits, _ or -")
    bodies = ["", "{", "[" * 100_000, '{"data": ["\\ud800"]}', '{"data": [NaN]}', '{"event_id": {"a": -1e999}}']
    for body in bodies:
        said = (400, "the body must be JSON, with whole characters and finite numbers")
        assert refused(server, "queue/join", body) == refused(server, "call/tell", body) == said
    functions = (-1, 9999, None, "0", [0], True)
    for number in functions:
        told = refused(server, "queue/join", join(function=number))
        assert told == (400, "fn_index must be one of the functions that /config lists")
    streams = {
        "queue/data?session_hash=unknown": '"session_not_found":true',
        "call/tell/0123": 'event: error\ndata: "404: Not Found"\n\n',
    }
    for path, said in streams.items():
        status, _, text = ask(server, "GET", f"{API}/{path}")  # read to its end
        assert status == 200 and said in text
    tried = len(paths) + 3 * len(names) + 2 * len(bodies) + len(functions) + len(streams)
    outcome = "refused in one line; without the checks a 500, a stream that breaks off, or Stop worked for nobody"
    record("names, numbers and bodies on which Gradio fails", tried, outcome, COMMAND, section="The page")


def test_a_body_without_end(server):
    text = "the body has more than 1,048,576 bytes: shorten the text"
    status, _, answer = ask(server, "POST", f"{API}/call/tell", call(prompt="a" * 2**21))
    assert (status, json.loads(answer)["detail"]) == (413, text)
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 20) as endless:
        endless.sendall(b"POST /gradio_api/call/tell HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 2**28:
                endless.sendall(b"10000\r\n" + b"a" * 2**16 + b"\r\n")
                sent += 2**16
    assert sent < 2**26  # what the server reads before it closes, and a few buffers


def test_a_cancellation_does_not_wait_for_the_body_of_another(server):
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 20) as slow:
        slow.sendall(b"POST /gradio_api/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)
        started = time.monotonic()
        body = json.dumps({"session_hash": "x", "fn_index": 0, "event_id": "x"})
        assert ask(server, "POST", f"{API}/cancel", body)[0] == 200
        assert time.monotonic() < started + 2


def test_of_a_body_that_is_too_long_nothing_more_is_kept():
    parts = [b"a" * 2**19] * 15

    async def receive():
        return {"type": "http.request", "body": parts.pop(), "more_body": bool(parts)}

    tracemalloc.start()
    with pytest.raises(request_checks.Refused, match="the body has more than 1,048,576 bytes"):
        asyncio.run(request_checks.read_body(receive))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not parts and peak < 3 * 2**20


def test_a_client_that_does_not_read_is_ended(monkeypatch):
    """A page that sends without end, to a client that takes nothing after the first bytes."""
    monkeypatch.setattr(request_checks, "SEND_SECONDS", 0.2)
    ended = threading.Event()

    async def endless(scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
        finally:
            ended.set()

    listener = socket.create_server(("127.0.0.1", 0))
    checks = request_checks.RequestChecks(endless, Turns(), ())
    running = uvicorn.Server(uvicorn.Config(checks, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with socket.create_connection(listener.getsockname(), 10) as client:
        client.sendall(b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4) == b"HTTP"
        assert ended.wait(5)
    running.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


def test_nobody_takes_all_connections(monkeypatch):
    """One visitor has a limit, and all together have one. Only the second applies to this machine."""
    monkeypatch.setattr(request_checks, "MAX_OPEN", 2)

    async def crowd() -> tuple[list[int], list[int]]:
        left, statuses = asyncio.Event(), []

        async def page(scope, receive, send):
            await left.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def visit(host: str) -> None:
            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            path = "/gradio_api/heartbeat/x"
            asked = {"type": "http", "method": "GET", "path": path, "query_string": b"", "client": (host, 1)}
            await checks(asked | {"headers": [(b"host", b"here")]}, None, send)

        checks = request_checks.RequestChecks(page, Turns(), ())
        checks.room = 6
        visits = [asyncio.create_task(visit(host)) for host in ["198.51.100.7"] * 4 + ["127.0.0.1"] * 5]
        await asyncio.sleep(0.01)
        refused = statuses.copy()
        left.set()
        await asyncio.gather(*visits)
        await visit("198.51.100.7")
        assert checks.open == {}
        return refused, statuses[len(refused) :]

    refused, told = asyncio.run(crowd())
    assert refused == [429, 429, 503] and told == [200] * 7
    assert request_checks.room_for_requests() >= 512


def test_a_head_request_to_the_tools_begins_no_stream(server):
    for path in ("/mcp/sse", "/mcp/"):
        asked = urllib.request.Request(f"{server.url}{API}{path}", method="HEAD")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=10)
        assert refused.value.code == 405
        refused.value.close()
