"""Ends connections of clients that stall: half a request for ever, or an answer that nobody reads."""

from __future__ import annotations

import asyncio

from uvicorn import Server

SECONDS = 15  # between two looks at a connection; one that stalls is ended at the second or third


def end_stalled_connections(server: Server) -> None:
    """Has a running server watch its connections; uvicorn's own limit holds only between two requests."""
    protocol = server.config.http_protocol_class

    class Watched(protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(SECONDS, self.look, self.state())

        def state(self) -> tuple[object, int]:
            """What changes between two looks at a connection where something happens: requests, and what is unread."""
            return self.cycle, self.transport.get_write_buffer_size()

        def look(self, before: tuple[object, int]) -> None:
            """Ends a connection where no request came to its head's end since the last look, or nothing was read."""
            if self.transport.is_closing():
                return
            cycle, unread = self.state()
            idle = cycle is None or cycle.response_complete
            if (cycle, unread) == before and (idle or unread):
                self.transport.abort()
            else:
                self.loop.call_later(SECONDS, self.look, (cycle, unread))

    server.config.http_protocol_class = Watched
