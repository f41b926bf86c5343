"""Fixes for errors of Gradio 6.31; remove each one when its test passes without it."""

from __future__ import annotations

import asyncio
import json
from weakref import WeakValueDictionary

from gradio import Blocks
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class StopWithoutError:
    """ASGI middleware: makes a stopped story end without an error.

    `/cancel` completes the event with an output that lacks `data`, and Gradio's script in the browser fails on that. If
    the message arrives after the answer to `/cancel` itself, the script leaves "Error" on the story. An empty `data`
    means "no change".
    """

    BARE, WHOLE = b'"output":{},', b'"output":{"data":[]},'

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if self.BARE in message.get("body", b""):  # never the text of a story, where quotes are escaped
                message["body"] = message["body"].replace(self.BARE, self.WHOLE)
            await send(message)

        stream = scope["type"] == "http" and scope["path"].endswith("/queue/data")
        await self.app(scope, receive, sent if stream else send)


class StopBeforeEventId:
    """ASGI middleware: lets a reader stop a story before the browser knows the id of its event.

    The page then sends null as the event id. Gradio would refuse that, and the story would go on.
    """

    SECONDS = 2  # longest wait for the event itself, which arrives on another connection

    def __init__(self, app: ASGIApp, page: Blocks) -> None:
        self.app, self.page = app, page
        self.stops: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith(("/cancel", "/reset")):
            return await self.app(scope, receive, send)
        body = await Request(scope, receive).body()
        try:
            asked = json.loads(body)
        except ValueError:  # Gradio itself refuses a body that is not JSON
            asked = None
        if isinstance(asked, dict) and asked.get("event_id", "") is None:
            body = json.dumps(asked | {"event_id": await self._event(asked)}).encode()
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        # One stop at a time: of two at once, Gradio's second one fails on what the first has removed.
        session = str(asked.get("session_hash")) if isinstance(asked, dict) else ""
        async with self.stops.setdefault(session, asyncio.Lock()):
            await self.app(scope, again, send)

    async def _event(self, asked: dict) -> str:
        """The id of the latest event of this session and function. Empty if there is none, or no function is named."""
        for _ in range(self.SECONDS * 20 if "fn_index" in asked else 0):
            for number, event in reversed(self.page._queue.event_ids_to_events.items()):
                if (event.session_hash, event.fn._id) == (asked.get("session_hash"), asked["fn_index"]):
                    return number
            await asyncio.sleep(0.05)
        return ""


class EmptyMonitoringSummary:
    """ASGI middleware: answers the request for call counts that Gradio's API documentation always sends.

    With monitoring off, Gradio refuses that request, and browsers log the refusal as an error. This answers that there
    are no counts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["path"].endswith("/monitoring/summary")
        await (JSONResponse({"functions": {}}) if asked else self.app)(scope, receive, send)


REFUSED = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
WHY = {"400": "Invalid request", "404": "Not found", "413": "Body too long", "503": "The queue is full"}
REFUSALS = {
    status: {"description": why, "content": {"application/json": {"schema": REFUSED}}} for status, why in WHY.items()
}
EVENTS = ("generating", "heartbeat", "complete", "error")
EVENT = {"type": "object", "properties": {"event": {"enum": EVENTS}, "data": {"type": "string"}}, "required": ["event"]}


class CompleteOpenApi:
    """ASGI middleware: completes openapi.json, so that it describes all that the page takes and answers.

    Gradio's own document lists an upload that `page.request_checks` refuses, and describes a stream of events as one
    string. It does not say which values are required, what a refusal looks like, or that a client fetches an answer by
    the event id that its call returned.
    """

    def __init__(self, app: ASGIApp, page: Blocks) -> None:
        self.app, self.page = app, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].endswith("/openapi.json"):
            return await self.app(scope, receive, send)
        body = bytearray()

        async def kept(message: Message) -> None:
            body.extend(message.get("body", b""))

        await self.app(scope, receive, kept)
        await JSONResponse(self._complete(json.loads(body)))(scope, receive, send)

    def _complete(self, document: dict) -> dict:
        paths = {path: it for path, it in document["paths"].items() if not path.endswith("/upload")}
        parameters = {name: it["parameters"] for name, it in self.page.get_api_info()["named_endpoints"].items()}
        for path, methods in paths.items():
            for method, operation in methods.items():
                operation["responses"] |= REFUSALS
                if method == "get":
                    operation["responses"]["200"]["content"]["text/event-stream"]["schema"] = EVENT
                    continue
                name = path.rsplit("/", 1)[1]
                needed = [it["parameter_name"] for it in parameters[f"/{name}"] if not it["parameter_has_default"]]
                taken = operation["requestBody"]["content"]["application/json"]["schema"]
                taken |= {"additionalProperties": False} | ({"required": needed} if needed else {})
                number = {"event_id": "$response.body#/event_id"}
                told = operation["responses"]["200"]
                told["content"]["application/json"]["schema"]["required"] = ["event_id"]
                told["links"] = {"answer": {"operationId": f"{name}_get", "parameters": number}}
        return document | {"paths": paths}
