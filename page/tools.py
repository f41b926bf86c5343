"""The tools that an assistant calls over MCP. Their calls wait in the page's own queue, like all other calls."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
from fastapi import Request
from gradio import Blocks
from gradio.data_classes import PredictBodyInternal
from gradio.mcp import GradioMCPServer
from gradio.server_messages import EstimationMessage, EventMessage, ProcessCompletedMessage

JOIN = "/gradio_api/queue/join"  # the address that a call over HTTP uses


class Tools:
    """Replaces the HTTP client with which Gradio's tools would call their own page.

    That client has 40 threads, as many as serve pages, and notices too late when a caller has left. A hundred calls
    would block the page.
    """

    def __init__(self, page: Blocks) -> None:
        self.page, self.server = page, page.mcp_server_obj

    def submit(self, *values: Any, api_name: str, headers: dict[str, str]) -> AsyncIterator[EventMessage]:
        """The messages of the queue about a call, which begins when the first message is read."""
        return self._call(api_name, list(values))

    async def _call(self, name: str, values: list[Any]) -> AsyncIterator[EventMessage]:
        queue, session = self.page._queue, secrets.token_urlsafe()
        asked = self.server.mcp_server.request_context.request
        request = Request(asked.scope | {"path": JOIN, "raw_path": JOIN.encode()})  # for the queue: whose call it is
        function = self.server.get_block_fn_from_endpoint_name(name)
        body = PredictBodyInternal(data=values, fn_index=function._id, session_hash=session, request=request)
        try:
            taken, id_or_reason, _ = await queue.push(body, request, None)
            if not taken:
                raise RuntimeError(id_or_reason)
            messages, message = queue.pending_messages_per_session[session], None
            while not isinstance(message, ProcessCompletedMessage):
                message = await messages.get()
                yield message
        finally:  # also when the caller has left: the story then ends with its next piece
            with anyio.CancelScope(shield=True):
                queue.pending_messages_per_session.pop(session, None)
                await queue.clean_events(session_hash=session)
                queue.pending_event_ids_session.pop(session, None)

    async def finish(self, call: AsyncIterator[EventMessage], token: str | int | None = None) -> list[Any]:
        """The answer of a call. With a `token`, the client gets a progress notification for each message before it."""
        context = self.server.mcp_server.request_context
        async with aclosing(call) as messages:
            step = 0
            async for message in messages:
                if isinstance(message, ProcessCompletedMessage):
                    break
                if token is not None:
                    step += 1
                    waits = isinstance(message, EstimationMessage) and message.rank is not None
                    said = f"number {message.rank + 1} of {message.queue_size} in the queue" if waits else "running"
                    await context.session.send_progress_notification(
                        progress_token=token, progress=step, message=said, related_request_id=str(context.request_id)
                    )
        if not message.success:
            raise RuntimeError(message.output["error"])
        return message.output["data"]


def serve_tools(page: Blocks) -> None:
    """Fixes the tools of a launched page: they call the queue directly, and answer in JSON.

    Gradio would write lists and objects in Python's notation, which other languages cannot read.
    """
    server: GradioMCPServer = page.mcp_server_obj
    tools, write = Tools(page), server.postprocess_output_data
    if page._queue.server_app is None:  # Gradio sets it at the first call over HTTP
        page._queue.set_server_app(page.app)

    def write_json(data: list[Any], root_url: str) -> list[Any]:
        return write([it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in data], root_url)

    server._get_or_create_client = lambda: tools
    server._execute_tool_without_progress = server._execute_tool_with_progress = tools.finish
    server.postprocess_output_data = write_json
