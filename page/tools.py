"""The tools that an assistant calls over MCP, whose calls wait in the page's own queue, as everybody's do."""

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

JOIN = "/gradio_api/queue/join"  # where a call from outside comes in


class Tools:
    """Stands for the client over HTTP with which Gradio's tools would call the page that they are part of.

    That client has 40 threads, as many as serve pages, and knows too late who has left: a hundred calls stop a page.
    """

    def __init__(self, page: Blocks) -> None:
        self.page, self.server = page, page.mcp_server_obj

    def submit(self, *values: Any, api_name: str, headers: dict[str, str]) -> AsyncIterator[EventMessage]:
        """The call, begun by the first who reads what the queue says of it."""
        return self._call(api_name, list(values))

    async def _call(self, name: str, values: list[Any]) -> AsyncIterator[EventMessage]:
        queue, session = self.page._queue, secrets.token_urlsafe()
        asked = self.server.mcp_server.request_context.request
        request = Request(asked.scope | {"path": JOIN, "raw_path": JOIN.encode()})  # the visitor's, to the queue
        function = self.server.get_block_fn_from_endpoint_name(name)
        body = PredictBodyInternal(data=values, fn_index=function._id, session_hash=session, request=request)
        try:
            taken, number, _ = await queue.push(body, request, None)
            if not taken:
                raise RuntimeError(number)  # in place of a number it says why
            messages, message = queue.pending_messages_per_session[session], None
            while not isinstance(message, ProcessCompletedMessage):
                message = await messages.get()
                yield message
        finally:  # or whoever asked has left: then the story ends with its next piece
            with anyio.CancelScope(shield=True):
                queue.pending_messages_per_session.pop(session, None)
                await queue.clean_events(session_hash=session)
                queue.pending_event_ids_session.pop(session, None)

    async def finish(self, call: AsyncIterator[EventMessage], token: str | int | None = None) -> list[Any]:
        """What a call answers. Under a `token` its client is told of every step until then."""
        context = self.server.mcp_server.request_context
        async with aclosing(call) as messages:
            step = 0
            async for message in messages:
                if isinstance(message, ProcessCompletedMessage):
                    break
                if token is not None:
                    step += 1
                    waits = isinstance(message, EstimationMessage) and message.rank is not None
                    said = f"number {message.rank + 1} of {message.queue_size} in the queue" if waits else "at work"
                    await context.session.send_progress_notification(
                        progress_token=token, progress=step, message=said, related_request_id=str(context.request_id)
                    )
        if not message.success:
            raise RuntimeError(message.output["error"])
        return message.output["data"]


def serve_tools(page: Blocks) -> None:
    """Fixes the tools of a launched page: how they are called, and that they answer in JSON.

    Gradio writes lists and objects the way Python does, which no other language reads.
    """
    server: GradioMCPServer = page.mcp_server_obj
    tools, write = Tools(page), server.postprocess_output_data
    if page._queue.server_app is None:  # no call from outside has come yet
        page._queue.set_server_app(page.app)

    def write_json(data: list[Any], root_url: str) -> list[Any]:
        return write([it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in data], root_url)

    server._get_or_create_client = lambda: tools
    server._execute_tool_without_progress = server._execute_tool_with_progress = tools.finish
    server.postprocess_output_data = write_json
