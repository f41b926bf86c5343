"""Answers that are not read yet: Gradio keeps each until somebody reads it, so a visitor may have only so many."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Message, Send

from page.turns import Turns

MOST = 64  # calls of one visitor whose answers are unread
SECONDS = 60  # how long a call counts to whose answer nobody listens


@dataclass
class Calls:
    """The calls of a session."""

    who: str | None
    since: float
    unread: int = 0


class Unread:
    """The calls of all sessions that have unread answers."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.sessions = turns, dict[str, Calls]()

    def room(self, who: str | None) -> bool:
        """Whether a visitor may call. This machine itself always may."""
        end = time.monotonic() - SECONDS
        for session, calls in list(self.sessions.items()):
            if calls.since < end and session not in self.turns.listening:
                del self.sessions[session]
        return who is None or sum(calls.unread for calls in self.sessions.values() if calls.who == who) < MOST

    def called(self, who: str | None, session: str | None, send: Send) -> Send:
        """Returns the `send` for the answer to a call's POST, which counts the call where it is accepted."""

        async def sent(message: Message) -> None:
            if message.get("body", b"").startswith(b'{"event_id"'):
                name = session or json.loads(message["body"])["event_id"]  # a session of its own, named as its event
                self.sessions.setdefault(name, Calls(who, time.monotonic())).unread += 1
            await send(message)

        return sent

    @contextmanager
    def listening(self, session: str, send: Send) -> Iterator[Send]:
        """While a stream of the session's events is open. Yields the `send` for it, which counts what was read."""

        async def sent(message: Message) -> None:
            await send(message)
            if session in self.sessions:
                self.sessions[session].unread -= message.get("body", b"").count(b'"msg":"process_completed"')

        try:
            with self.turns.listen(session):
                yield sent
        finally:
            self.sessions.pop(session, None)
