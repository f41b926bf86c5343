"""Two mends of what Gradio 6.31 sends; drop each when its test passes without it."""

from __future__ import annotations

import json
from typing import Any

from gradio.mcp import GradioMCPServer
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CalmStop:
    """ASGI middleware: the end of a story that was stopped is no error.

    `/cancel` completes the event with an output that lacks `data`. The page's script stumbles over that and, if the
    message comes after the answer to `/cancel` itself, leaves "Error" on the story. An empty `data` means "no change".
    """

    BARE, WHOLE = b'"output":{},', b'"output":{"data":[]},'

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if self.BARE in message.get("body", b""):  # not out of a story, where quotes are escaped
                message["body"] = message["body"].replace(self.BARE, self.WHOLE)
            await send(message)

        stream = scope["type"] == "http" and scope["path"].endswith("/queue/data")
        await self.app(scope, receive, sent if stream else send)


def answer_in_json(server: GradioMCPServer) -> None:
    """Has tools answer in JSON; Gradio writes lists and objects the way Python does, which no other language reads."""
    write = server.postprocess_output_data

    def write_json(data: list[Any], root_url: str) -> list[Any]:
        return write([it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in data], root_url)

    server.postprocess_output_data = write_json
