"""SIGINT and SIGTERM as a request to stop, heard at once or at the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal ended the run; `number` is the signal's. Like KeyboardInterrupt, nothing that tries again catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """What has been heard: `received` is the number of a signal that waits for the end of a step, or None."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.patient = False

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Within, a first signal is only noted, so that the step ends whole; a second one interrupts at once."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number  # first: an exception that is raised within a finaliser goes no further
        if again or not self.patient:
            raise Interrupted(number)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Hears SIGINT and SIGTERM meanwhile, in the main thread; elsewhere Python delivers none."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
