"""SIGINT and SIGTERM as a request to stop, which takes effect at once or at the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal with this `number` ended the run. `except Exception` does not catch it, as with KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """Handles signals. `received` is the number of a signal that waits for the end of a step, or None."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferring = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a first signal is only recorded, so that the step can finish. A second one interrupts at once."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number  # before raising: Python swallows an exception that is raised inside a finaliser
        if again or not self.deferring:
            raise Interrupted(number)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Handles SIGINT and SIGTERM inside. Only in the main thread: Python delivers signals to no other."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
