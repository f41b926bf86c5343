"""Checks every request before Gradio reads it: the page's own addresses only, bodies that end soon, limited numbers.

Gradio serves more than this page uses: uploads, a proxy, files by path, components of other apps. All of that is
refused.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import AsyncExitStack, contextmanager

from anyio.to_thread import current_default_thread_limiter
from starlette.datastructures import MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.endpoints import PARAMETERS
from page.gradio_fixes import ask_anew
from page.turns import CALL, Turns, visitor
from page.unread import MOST, Unread

MAX_BODY = 2**20  # bytes: twice the longest story that can be continued, with every character escaped
BODY_SECONDS = 20  # longest time for a body to arrive
SEND_SECONDS = 60  # longest time for a client to read what was sent
MAX_OPEN, MAX_TOOLS = 256, 16  # requests and tool calls of one visitor at the same time; an open page has two
THREADS = 200  # Gradio holds one for each tool call: more than can wait or run
API = "/gradio_api"
TOOLS = f"{API}/mcp"
READ = {
    *("/", "/config", "/favicon.ico", "/robots.txt", "/manifest.json", "/theme.css", "/monitoring/summary"),
    *(f"{API}/{name}" for name in ("info", "openapi.json", "theme.css", "startup-events", "app_id", "queue/data")),
    *(f"{API}/{name}" for name in ("queue/status", "user", "login_check")),
}
READ_BELOW = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/", f"{API}/call/")
CALLS = {f"{API}/call/{name}": names for name, names in PARAMETERS.items()}  # their values are a list
CALLS_BY_NAME = {f"{API}/call/v2/{name}": names for name, names in PARAMETERS.items()}
WRITE = {f"{API}/{name}" for name in ("queue/join", "cancel", "reset")} | CALLS.keys() | CALLS_BY_NAME.keys()
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


class Refused(Exception):
    """Refuses a request with an HTTP status and one line. Not with 422: that has a meaning for Gradio's clients."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class RequestChecks:
    """ASGI middleware: refuses a request that the page does not serve, or that is too large, too slow or too many.

    `functions` are the numbers of the page's functions, which Gradio looks up.
    """

    def __init__(self, app: ASGIApp, turns: Turns, functions: Container[object]) -> None:
        self.app, self.turns, self.functions = app, turns, functions
        self.open: Counter[tuple[str, str | None]] = Counter()  # open requests and tool calls, by visitor
        self.room = room_for_requests()
        self.unread = Unread(turns)
        self.cancelling = asyncio.Lock()  # of two cancellations at once, Gradio fails on the second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        current_default_thread_limiter().total_tokens = THREADS

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if headers.get("content-type", "").startswith("text/event-stream"):
                    headers.update(STREAM_HEADERS)
            async with asyncio.timeout(SEND_SECONDS):  # a client that does not read ends here
                await send(message)

        path, session = scope["path"].rstrip("/") or "/", listener(scope)
        try:
            async with AsyncExitStack() as stack:
                self._admit(path, scope, stack)
                if session is not None:
                    sent = stack.enter_context(self.unread.listening(session, sent))
                if scope["method"] == "POST":
                    body = await read_body(receive)
                    self._check_call(path, asked := parsed(body))
                    receive = again(body, receive)
                    if path.startswith((f"{API}/queue/join", f"{API}/call/")):
                        sent = self._called(visitor(Request(scope)), asked.get("session_hash"), sent)
                    if path == f"{API}/cancel":
                        await stack.enter_async_context(self.cancelling)
                await self.app(scope, receive, sent)
        except Refused as refused:
            # Without this header the server would read the rest of the refused body.
            close = {"Connection": "close"} if refused.status in (408, 413) else None
            await JSONResponse({"detail": refused.detail}, refused.status, close)(scope, receive, sent)
        except RuntimeError as error:
            if session is None or not isinstance(error.__cause__, HTTPException):
                raise
            # Gradio has sent that the session is unknown, and then raises an error, which would cut the stream off.
            await sent({"type": "http.response.body", "body": b"", "more_body": False})

    def _admit(self, path: str, scope: Scope, stack: AsyncExitStack) -> None:
        """Counts the request until the stack closes, and checks its address. Raises Refused."""
        who, method = visitor(Request(scope)), scope["method"]
        stack.enter_context(self._counted("requests", who, MAX_OPEN))
        if path == TOOLS or path.startswith(f"{TOOLS}/"):
            if method == "HEAD":  # Gradio would begin a stream without end
                raise Refused(405, "HEAD is not supported here: use GET")
            stack.enter_context(self._counted("tool calls", who, MAX_TOOLS))
            stack.enter_context(self._tool_call(scope))
            return
        read, write = path in READ or path.startswith(READ_BELOW), path in WRITE
        known = {"GET": read, "HEAD": read, "POST": write, "OPTIONS": read or write}.get(method)
        usual = path.isprintable() and all(len(part.encode()) < 256 for part in path.split("/"))  # as names of files
        if not (known and usual) or "page" in QueryParams(scope["query_string"]):
            raise Refused(404, "there is nothing here")
        if path == f"{API}/info":
            ask_anew(scope)

    @contextmanager
    def _counted(self, what: str, who: str | None, most: int) -> Iterator[None]:
        """Counts an open request. Raises Refused where the visitor, or all visitors together, are at their limit."""
        if who and self.open[what, who] >= most:
            raise Refused(429, f"{most} {what} from your address are open, which is the limit: wait until one ends")
        if self.open.total() >= self.room:
            raise Refused(503, f"{self.room:,} requests are open, which is the limit of this page: try again later")
        self.open[what, who] += 1
        try:
            yield
        finally:
            self.open[what, who] -= 1
            if not self.open[what, who]:
                del self.open[what, who]

    @contextmanager
    def _tool_call(self, scope: Scope) -> Iterator[None]:
        """Gives a tool call a name and its visitor's address, which Gradio passes on in the call of its own page.

        That call comes from this machine, and would go on when the caller has left.
        """
        headers, call = MutableHeaders(scope=scope), secrets.token_urlsafe()
        headers[CALL], headers["X-Forwarded-For"] = call, scope["client"][0] if scope.get("client") else "unknown"
        try:
            yield
        finally:
            self.turns.stop(call=call)

    def _called(self, who: str | None, session: str | None, send: Send) -> Send:
        """The `send` for a call's answer. Raises Refused where the visitor has too many unread answers."""
        if not self.unread.room(who):
            raise Refused(429, f"{MOST} answers for your address are unread, which is the limit: read them first")
        return self.unread.called(who, session, send)

    def _check_call(self, path: str, asked: dict[str, object]) -> None:
        """Checks what Gradio looks up or counts, and fails on. Raises Refused."""
        session, values, function = (asked.get(name) for name in ("session_hash", "data", "fn_index"))
        if path in CALLS_BY_NAME:
            if unknown := asked.keys() - CALLS_BY_NAME[path]:
                raise Refused(400, f"a value is no parameter of the endpoint: {min(unknown)[:100]}")
        elif path in CALLS and session is not None:
            raise Refused(400, "session_hash has no use here: every call is a session of its own")
        elif path in CALLS and isinstance(values, list) and len(values) != len(CALLS[path]):
            raise Refused(400, f"data must have {len(CALLS[path])} values here, not {len(values)}")
        elif session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
            raise Refused(400, "session_hash must be 1 to 100 letters, digits, _ or -")
        elif path == f"{API}/queue/join" and (type(function) is not int or function not in self.functions):
            raise Refused(400, "fn_index must be one of the functions that /config lists")


def listener(scope: Scope) -> str | None:
    """The session whose events a request reads, if it reads events."""
    path = scope["path"].rstrip("/")
    if scope["method"] == "GET" and path == f"{API}/queue/data":
        return QueryParams(scope["query_string"]).get("session_hash")
    if scope["method"] == "GET" and path.startswith(f"{API}/call/"):
        return path.rsplit("/", 1)[1]  # a call over plain HTTP is a session of its own, named as its event
    return None


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


def parsed(body: bytes) -> dict[str, object]:
    """The JSON object in a body. Raises Refused if there is none, or if it cannot be written again."""
    try:
        asked = json.loads(body)
        json.dumps(asked, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be JSON, with whole characters and finite numbers") from None
    if not isinstance(asked, dict):
        raise Refused(400, 'the body must be a JSON object, such as {"data": []}')
    return asked


async def read_body(receive: Receive) -> bytes:
    """The body of a request. Raises Refused if it is too long or arrives too slowly.

    A body that is only a little too long is read to its end: only then does a client read the refusal.
    """
    body, read, more = bytearray(), 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more and read < 8 * MAX_BODY:
                message = await receive()
                part, more = message.get("body", b""), message.get("more_body", False)
                read += len(part)
                body += part if read <= MAX_BODY else b""
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {BODY_SECONDS} seconds") from None
    if read > MAX_BODY:
        raise Refused(413, f"the body has more than {MAX_BODY:,} bytes: shorten the text")
    return bytes(body)


def again(body: bytes, receive: Receive) -> Receive:
    """A `receive` from which the body can be read once more."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return pending.pop() if pending else await receive()

    return received
