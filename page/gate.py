"""What may come in: the page's own addresses alone, bodies that end soon, and requests that Gradio can read.

Gradio serves more than this page uses: uploads, a proxy, files by path, components of other apps. None of that passes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from gradio import Blocks
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 2**20  # bytes: the longest story that can be continued, with every character escaped, is half of it
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
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    # The Hub shows a Space within its own page.
    "Content-Security-Policy": "frame-ancestors 'self' https://huggingface.co https://*.hf.space; "
    "object-src 'none'; base-uri 'self'",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Refused(Exception):
    """What a request is refused with: a status of HTTP and one line."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Gate:
    """ASGI middleware around everything that the page answers."""

    def __init__(self, app: ASGIApp, page: Blocks) -> None:
        self.app, self.page = app, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self.app(scope, await self._checked(scope, receive), sent)
        except Refused as refused:
            await JSONResponse({"detail": refused.detail}, refused.status)(scope, receive, sent)
        except HTTPException:
            # A stream of an event that is gone: Gradio tells the client so in the stream, and raises.
            if not started:
                raise

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What the page reads the request from. Raises Refused."""
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        tools = path == TOOLS or path.startswith(f"{TOOLS}/")
        if method in ("GET", "HEAD"):
            if not (tools or path in READ or path.startswith(READ_BELOW)):
                raise Refused(404, "there is nothing here")
            if path.startswith(f"{API}/call/"):
                self._check_event(path)
        elif method == "OPTIONS" or (method == "DELETE" and tools):
            pass
        elif method != "POST" or not (tools or path in WRITE or path.startswith(f"{API}/call/")):
            raise Refused(404, "there is nothing here")
        if tools:
            name_visitor(scope)
        if method != "POST":
            return receive
        body = await read_body(scope, receive)
        if not tools:
            self._check_call(path, body)
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        return again

    def _check_event(self, path: str) -> None:
        """The id at the end of the path must be that of a call whose answer has not been read to its end."""
        name, queue = path.rsplit("/", 1)[1], self.page._queue
        waiting: Iterable[set[str]] = queue.pending_event_ids_session.values()
        if name not in queue.event_ids_to_events and not any(name in events for events in waiting):
            raise Refused(404, "event_id is unknown here: its answer was read already, or it was never given out")

    def _check_call(self, path: str, body: bytes) -> None:
        """Every field that Gradio looks things up by, before it does."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "the body must be JSON") from None
        if not isinstance(asked, dict):
            raise Refused(400, 'the body must be a JSON object, such as {"data": []}')
        if path.startswith(f"{API}/call/"):
            self._check_name(path)
        if (name := asked.get("session_hash")) is not None and not (isinstance(name, str) and 1 <= len(name) <= 100):
            raise Refused(422, "session_hash must be text of 1 to 100 characters")
        if path.endswith("/queue/join"):
            function = asked.get("fn_index")
            if type(function) is not int or function not in self.page.fns:
                raise Refused(422, f"fn_index must be one of the {len(self.page.fns)} that /config lists")
        if path.endswith("/queue/join") or (path.startswith(f"{API}/call/") and "/call/v2/" not in path):
            check_values(asked)

    def _check_name(self, path: str) -> None:
        name = path.removeprefix(f"{API}/call/").removeprefix("v2/")
        if not any(fn.api_name == name for fn in self.page.fns.values()):
            public = [f"/{fn.api_name}" for fn in self.page.fns.values() if fn.api_visibility == "public"]
            raise Refused(404, f"no endpoint has this name; there are {', '.join(public)}")


def check_values(asked: dict[str, Any]) -> None:
    """The inputs of a call. Several calls in one are none of this page's."""
    if not isinstance(asked.get("data"), list):
        raise Refused(422, "data must be a list with one value for each parameter of the endpoint")
    if asked.get("batched"):
        raise Refused(422, "batched must be false: no endpoint takes several calls in one")


def name_visitor(scope: Scope) -> None:
    """Tools are called by the page's own client, from this machine: it passes on who asked, and not who claims to."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"x-forwarded-for"]
    scope["headers"] = [*headers, (b"x-forwarded-for", scope["client"][0].encode())]


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request. Raises Refused where it is too long, or too long in coming."""
    length = Headers(scope=scope).get("content-length", "0")
    too_long = Refused(413, f"the body has more than {MAX_BODY:,} bytes: shorten the text")
    if not length.isdecimal() or int(length) > MAX_BODY:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise too_long
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {BODY_SECONDS} seconds") from None
