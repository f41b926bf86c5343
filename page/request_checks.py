"""Checks every request before Gradio reads it: the page's own addresses only, bodies that end soon, valid fields.

Gradio serves more than this page uses: uploads, a proxy, files by path, components of other apps. All of that is
refused.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gradio import Blocks
from gradio.server_messages import UnexpectedErrorMessage
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.fair_queue import visitor

MAX_BODY = 2**20  # bytes: twice the longest story that can be continued, with every character escaped
MAX_READ = 8 * MAX_BODY
MAX_OPEN = 256  # requests of one visitor at the same time; an open page has two
BODY_SECONDS = 20  # longest time for a body to arrive
API = "/gradio_api"
READ = {
    *("/", "/config", "/favicon.ico", "/robots.txt", "/manifest.json", "/theme.css", "/monitoring/summary"),
    *(f"{API}/{name}" for name in ("info", "openapi.json", "theme.css", "startup-events", "app_id", "queue/data")),
    *(f"{API}/{name}" for name in ("queue/status", "user", "login_check")),
}
READ_BELOW = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/", f"{API}/call/")
WRITE = {f"{API}/queue/join", f"{API}/cancel", f"{API}/reset"}
TOOLS = f"{API}/mcp"
LONGEST_NAME = 255  # bytes of one part of a path, as in file systems
HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[\w.-]{1,253})(:\d{1,5})?", re.ASCII)
SESSION = re.compile(r"[\w-]{1,100}", re.ASCII)  # Gradio puts it into names of tasks, and splits these names again
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    # Any site may show this page in a frame, as the Hub and blogs that embed a Space do. That is safe: nobody signs in
    # here, so a stolen click in a frame gains nothing.
    "Content-Security-Policy": "object-src 'none'; base-uri 'self'",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
# Of a stream of events too: nginx would gather it, and a browser or a proxy could keep it.
STREAM_HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}

# What Gradio itself streams to an unknown session, before it raises an error.
UNKNOWN = UnexpectedErrorMessage(message="404: Not Found", success=False, session_not_found=True)
GONE = Response(f"data: {UNKNOWN.model_dump_json()}\n\n", media_type="text/event-stream")


class Refused(Exception):
    """Refuses a request, with an HTTP status and one line.

    The status is never 422: for that status Gradio's clients expect an answer of Gradio's own checks of components.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class RequestChecks:
    """ASGI middleware: refuses a request that the page does not serve or that Gradio cannot read."""

    def __init__(self, app: ASGIApp, page: Blocks) -> None:
        self.app, self.page = app, page
        self.open: Counter[str | None] = Counter()  # open requests, by visitor
        self.room = room_for_requests()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if headers.get("content-type", "").startswith("text/event-stream"):
                    headers.update(STREAM_HEADERS)
            await send(message)

        who = visitor(Request(scope))
        try:
            with self._counted(who):
                checked = await self._checked(scope, receive)
                await (GONE if self._is_gone(scope) else self.app)(scope, checked, sent)
        except Refused as refused:
            # Without this header the server would read the rest of the refused body.
            close = {"Connection": "close"} if refused.status in (408, 413) else None
            await JSONResponse({"detail": refused.detail}, refused.status, close)(scope, receive, sent)

    @contextmanager
    def _counted(self, who: str | None) -> Iterator[None]:
        """Counts an open request. Raises Refused where the visitor, or all visitors together, are at their limit."""
        if who and self.open[who] >= MAX_OPEN:
            raise Refused(429, f"{MAX_OPEN} requests from your address are open, which is the limit: close a page")
        if self.open.total() >= self.room:
            raise Refused(503, f"{self.room:,} requests are open, which is the limit of this page: try again later")
        self.open[who] += 1
        try:
            yield
        finally:
            self.open[who] -= 1
            if not self.open[who]:
                del self.open[who]

    def _is_gone(self, scope: Scope) -> bool:
        """Whether this is a request for the events of an unknown session."""
        asked = QueryParams(scope["query_string"]).get("session_hash")
        sessions = self.page._queue.pending_messages_per_session
        return scope["path"] == f"{API}/queue/data" and asked is not None and asked not in sessions

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """Checks the request, and returns the `receive` for the page to read it from. Raises Refused."""
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        tools = path == TOOLS or path.startswith(f"{TOOLS}/")
        query = QueryParams(scope["query_string"])
        too_long = any(len(part.encode()) > LONGEST_NAME for part in path.split("/"))
        # Gradio uses paths to build addresses and to find files: it would fail there with a bad path.
        if not path.isprintable() or too_long or query.get("page"):
            raise Refused(404, "there is nothing here")
        check_host(scope)
        if method in ("GET", "HEAD"):
            if tools and method == "HEAD":  # Gradio would begin a stream
                raise Refused(405, "HEAD is not supported here: use GET")
            if not (tools or path in READ or path.startswith(READ_BELOW)):
                raise Refused(404, "there is nothing here")
            if path.startswith(f"{API}/call/"):
                self._check_event(path)
            elif path in (f"{API}/info", f"{API}/openapi.json"):
                # Gradio would cache the address that the first client sent, and show it to all later ones.
                scope["app"].api_info = None
        elif method == "OPTIONS" or (method == "DELETE" and tools):
            pass
        elif method != "POST" or not (tools or path in WRITE or path.startswith(f"{API}/call/")):
            raise Refused(404, "there is nothing here")
        if method != "POST":
            return receive
        body = await read_body(scope, receive)
        asked = parsed(body)
        if not tools:
            self._check_call(path, asked)
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        return again

    def _check_event(self, path: str) -> None:
        """Checks the event id in the path: the answer of its call must not have been read to the end, or abandoned."""
        name, queue = path.rsplit("/", 1)[1], self.page._queue
        asked = {name: event.session_hash for name, event in queue.event_ids_to_events.items()}
        asked |= {name: session for session, names in queue.pending_event_ids_session.items() for name in names}
        if asked.get(name) not in queue.pending_messages_per_session:
            raise Refused(404, "event_id is unknown: no call returned it, or its answer has been read; call again")

    def _check_call(self, path: str, asked: dict[str, Any]) -> None:
        """Checks every field by which Gradio looks something up."""
        if path.startswith(f"{API}/call/v2/"):
            self._check_parameters(path.removeprefix(f"{API}/call/v2/"), asked)
        elif path.startswith(f"{API}/call/"):
            self._check_name(path.removeprefix(f"{API}/call/"), {f"{fn.api_name}" for fn in self.page.fns.values()})
        name, needed = asked.get("session_hash"), path.endswith("/queue/join")
        if (needed or name is not None) and not (isinstance(name, str) and SESSION.fullmatch(name)):
            raise Refused(400, "session_hash must be 1 to 100 letters, digits, _ or -")
        if path.endswith("/queue/join"):
            function = asked.get("fn_index")
            if type(function) is not int or function not in self.page.fns:
                raise Refused(400, f"fn_index must be one of the {len(self.page.fns)} that /config lists")
        if path.startswith(f"{API}/call/v2/"):
            return
        calls = path.endswith("/queue/join") or path.startswith(f"{API}/call/")
        for field, value in asked.items():
            if not (calls and field == "data"):
                check_finite(field, value)
        if calls:
            check_values(asked)

    def _check_name(self, name: str, known: Iterable[str]) -> None:
        if name not in known:
            raise Refused(404, f"no endpoint has this name: call one of {', '.join(self._public())}")

    def _check_parameters(self, name: str, given: dict[str, Any]) -> None:
        """Checks values by name: each must be a parameter. Any may be missing, because all parameters have defaults."""
        self._check_name(name, {public.removeprefix("/") for public in self._public()})
        parameters = self._public()[f"/{name}"]["parameters"]
        known = {each["parameter_name"] for each in parameters} | {"oauth_token"}  # which Gradio accepts and drops
        if given.keys() - known:
            raise Refused(400, f"a value is not a parameter of /{name}: these are {', '.join(sorted(known))}")

    def _public(self) -> dict[str, Any]:
        """The documented endpoints, by /name."""
        return self.page.get_api_info()["named_endpoints"]


def room_for_requests() -> int:
    """How many requests may be open: half of the open files that this process may have, after raising that limit."""
    try:
        import resource
    except ImportError:  # Windows
        return 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most // 2


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Refused if there is none, or if it cannot be written as UTF-8 again."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be JSON") from None
    if not isinstance(asked, dict):
        raise Refused(400, 'the body must be a JSON object, such as {"data": []}')
    try:
        json.dumps(asked, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(400, "data has half a character (a lone surrogate): send whole characters") from None
    return asked


def check_values(asked: dict[str, Any]) -> None:
    """Checks the inputs of a call. The page takes one call per request. Raises Refused."""
    if not isinstance(asked.get("data"), list):
        raise Refused(400, "data must be a list with one value for each parameter of the endpoint")
    if asked.get("batched"):
        raise Refused(400, "batched must be false: no endpoint takes several calls in one")


def check_finite(field: str, value: object) -> None:
    """Refuses NaN and infinity: Gradio repeats bad values in its refusals, where it cannot write these two."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        known = field if SESSION.fullmatch(field) else "a field of the body"
        raise Refused(400, f"{known} has a number that is not finite") from None


def check_host(scope: Scope) -> None:
    """Checks every host name from which Gradio builds the page's own address. Raises Refused."""
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"x-gradio-server"]
    headers = Headers(scope=scope)
    for name in ("host", "x-forwarded-host"):
        for value in headers.getlist(name):
            if not HOST.fullmatch(value.split(",")[0].strip()):
                raise Refused(400, f"{name} must be a host name, with or without a port")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request. Raises Refused if it is too long or arrives too slowly.

    A body that is only a little too long is read to its end: only then does a client read the refusal.
    """
    length = Headers(scope=scope).get("content-length", "0")
    too_long = Refused(413, f"the body has more than {MAX_BODY:,} bytes: shorten the text")
    if not length.isdecimal() or int(length) > MAX_READ:
        raise too_long
    body, read = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                part = message.get("body", b"")
                read += len(part)
                if read <= MAX_BODY:
                    body += part
                elif read > MAX_READ or not message.get("more_body", False):
                    raise too_long
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {BODY_SECONDS} seconds") from None
