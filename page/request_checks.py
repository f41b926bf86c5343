"""What may come in: the page's own addresses alone, bodies that end soon, and requests that Gradio can read.

Gradio serves more than this page uses: uploads, a proxy, files by path, components of other apps. None of that passes.
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

MAX_BODY = 2**20  # bytes: the longest story that can be continued, with every character escaped, is half of it
MAX_READ = 8 * MAX_BODY
MAX_OPEN = 256  # requests of one visitor at the same time; a page that is open has two
BODY_SECONDS = 20  # for a body to arrive
API = "/gradio_api"
READ = {
    *("/", "/config", "/favicon.ico", "/robots.txt", "/manifest.json", "/theme.css", "/monitoring/summary"),
    *(f"{API}/{name}" for name in ("info", "openapi.json", "theme.css", "startup-events", "app_id", "queue/data")),
    *(f"{API}/{name}" for name in ("queue/status", "user", "login_check")),
}
READ_BELOW = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/", f"{API}/call/")
WRITE = {f"{API}/queue/join", f"{API}/cancel", f"{API}/reset"}
TOOLS = f"{API}/mcp"
LONGEST_NAME = 255  # bytes of one part of a path, as file systems have it
HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[\w.-]{1,253})(:\d{1,5})?", re.ASCII)
SESSION = re.compile(r"[\w-]{1,100}", re.ASCII)  # Gradio names its tasks by it, and parts the names again
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    # Any page may frame this one, as the Hub does and as a Space is embedded in a blog: nobody is signed in here, so
    # there is nothing that a click in a frame could be stolen for.
    "Content-Security-Policy": "object-src 'none'; base-uri 'self'",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

# What Gradio streams to a session that it does not know, before it raises.
UNKNOWN = UnexpectedErrorMessage(message="404: Not Found", success=False, session_not_found=True)
GONE = Response(f"data: {UNKNOWN.model_dump_json()}\n\n", media_type="text/event-stream")


class Refused(Exception):
    """What a request is refused with: a status of HTTP and one line.

    The status is never 422: for that one Gradio's clients expect what its own checks of components say.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class RequestChecks:
    """ASGI middleware around everything that the page answers."""

    def __init__(self, app: ASGIApp, page: Blocks) -> None:
        self.app, self.page = app, page
        self.open: Counter[str | None] = Counter()  # requests, by visitor
        self.room = room_for_requests()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        who = visitor(Request(scope))
        try:
            with self._counted(who):
                checked = await self._checked(scope, receive)
                await (GONE if self._is_gone(scope) else self.app)(scope, checked, sent)
        except Refused as refused:
            # The rest of a body that is not wanted would be read otherwise.
            close = {"Connection": "close"} if refused.status in (408, 413) else None
            await JSONResponse({"detail": refused.detail}, refused.status, close)(scope, receive, sent)

    @contextmanager
    def _counted(self, who: str | None) -> Iterator[None]:
        """Raises Refused where a visitor, or all together, have as many requests open as they may."""
        if who and self.open[who] >= MAX_OPEN:
            raise Refused(429, f"{MAX_OPEN} requests from your address are open, and that is the limit: close a page")
        if self.open.total() >= self.room:
            raise Refused(503, "so many are connected that there is no room: try again later")
        self.open[who] += 1
        try:
            yield
        finally:
            self.open[who] -= 1
            if not self.open[who]:
                del self.open[who]

    def _is_gone(self, scope: Scope) -> bool:
        """Whether the events of a session are asked for that has none."""
        asked = QueryParams(scope["query_string"]).get("session_hash")
        sessions = self.page._queue.pending_messages_per_session
        return scope["path"] == f"{API}/queue/data" and asked is not None and asked not in sessions

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What the page reads the request from. Raises Refused."""
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        tools = path == TOOLS or path.startswith(f"{TOOLS}/")
        query = QueryParams(scope["query_string"])
        too_long = any(len(part.encode()) > LONGEST_NAME for part in path.split("/"))
        # Gradio makes addresses of paths, and looks for files and pages by them, which fails late.
        if not path.isprintable() or too_long or query.get("page"):
            raise Refused(404, "there is nothing here")
        check_host(scope)
        if method in ("GET", "HEAD"):
            if tools and method == "HEAD":  # it would begin a stream
                raise Refused(405, "HEAD has no use here")
            if not (tools or path in READ or path.startswith(READ_BELOW)):
                raise Refused(404, "there is nothing here")
            if path.startswith(f"{API}/call/"):
                self._check_event(path)
            elif path in (f"{API}/info", f"{API}/openapi.json"):
                # Gradio would keep the address that the first reader gave himself, for all that come after.
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
        """The id at the end of the path must be that of a call whose answer has not been read to its end, or left."""
        name, queue = path.rsplit("/", 1)[1], self.page._queue
        asked = {name: event.session_hash for name, event in queue.event_ids_to_events.items()}
        asked |= {name: session for session, names in queue.pending_event_ids_session.items() for name in names}
        if asked.get(name) not in queue.pending_messages_per_session:
            raise Refused(404, "event_id is unknown here: its answer was read already, or it was never given out")

    def _check_call(self, path: str, asked: dict[str, Any]) -> None:
        """Every field that Gradio looks things up by, before it does."""
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
            raise Refused(404, f"no endpoint has this name; there are {', '.join(self._public())}")

    def _check_parameters(self, name: str, given: dict[str, Any]) -> None:
        """Values by name: each must be a parameter; all parameters have defaults."""
        self._check_name(name, {public.removeprefix("/") for public in self._public()})
        parameters = self._public()[f"/{name}"]["parameters"]
        known = {each["parameter_name"] for each in parameters} | {"oauth_token"}  # which Gradio takes and drops
        if given.keys() - known:
            raise Refused(400, f"one value is no parameter of /{name}; those are {', '.join(sorted(known))}")

    def _public(self) -> dict[str, Any]:
        """The documented endpoints, by /name."""
        return self.page.get_api_info()["named_endpoints"]


def room_for_requests() -> int:
    """How many may be open: half of the files that this process may have open, of which it first takes what it can."""
    try:
        import resource
    except ImportError:  # Windows
        return 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most // 2


def parsed(body: bytes) -> dict[str, Any]:
    """The object that a body holds, which can be written again."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be JSON") from None
    if not isinstance(asked, dict):
        raise Refused(400, 'the body must be a JSON object, such as {"data": []}')
    try:
        json.dumps(asked, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(400, "data has half a character (a lone surrogate): send whole ones") from None
    return asked


def check_values(asked: dict[str, Any]) -> None:
    """The inputs of a call. Several calls in one are none of this page's."""
    if not isinstance(asked.get("data"), list):
        raise Refused(400, "data must be a list with one value for each parameter of the endpoint")
    if asked.get("batched"):
        raise Refused(400, "batched must be false: no endpoint takes several calls in one")


def check_finite(field: str, value: object) -> None:
    """What Gradio does not take it says again in its refusal, which cannot have NaN or infinity. Raises Refused."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        known = field if SESSION.fullmatch(field) else "a field of the body"
        raise Refused(400, f"{known} has a number that is not finite") from None


def check_host(scope: Scope) -> None:
    """Every name of a host that Gradio makes the page's own address of. Raises Refused."""
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"x-gradio-server"]
    headers = Headers(scope=scope)
    for name in ("host", "x-forwarded-host"):
        for value in headers.getlist(name):
            if not HOST.fullmatch(value.split(",")[0].strip()):
                raise Refused(400, f"{name} must be the name of a host, and a port if need be")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request. Raises Refused where it is too long, or too long in coming.

    One that is a little too long is read to its end: only then does a client listen to what is wrong.
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
