"""Ends the connections of slow clients: those that never finish a request, or never read an answer."""

from __future__ import annotations

import asyncio

from uvicorn import Server

SECONDS = 15  # between two checks of a connection; the second or third check ends one that stalls


def end_stalled_connections(server: Server) -> None:
    """Makes a running server check its connections: uvicorn's own timeout applies only between two requests."""
    protocol = server.config.http_protocol_class

    class Watched(protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(SECONDS, self.check, self.state())

        def state(self) -> tuple[object, int]:
            """The request and the number of unsent bytes. With an active client, one changes between two checks."""
            return self.cycle, self.transport.get_write_buffer_size()

        def check(self, before: tuple[object, int]) -> None:
            """Ends a connection whose client, since the last check, sent no complete request head, or read nothing."""
            if self.transport.is_closing():
                return
            cycle, unsent = self.state()
            idle = cycle is None or cycle.response_complete
            if (cycle, unsent) == before and (idle or unsent):
                self.transport.abort()
            else:
                self.loop.call_later(SECONDS, self.check, (cycle, unsent))

    server.config.http_protocol_class = Watched
