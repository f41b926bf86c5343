"""Whose turn is next: the share of each visitor in the calls that run and wait, and how long a call may wait."""

from __future__ import annotations

import ipaddress
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from gradio import Request
from starlette.requests import HTTPConnection

from page.limits import Refusal
from page.scheduler import STORIES
from page.words import ENGLISH

AT_ONCE = {"stories": STORIES, "comparisons": 1, "looks": 2}  # calls of each kind that run at the same time
WAITING = 32  # calls that may wait; more are refused
SHARE = WAITING // 2  # calls of one visitor that may wait or run
UNHEARD = 16  # calls to whose answers nobody listens yet; of more, the oldest is refused
WAIT_SECONDS = 60  # longest wait for a turn
HEARTBEAT_SECONDS = 0.5  # a call that waits says so this often: only then does Gradio notice that its reader has left
CALL = "x-tool-call"  # a header that names the tool call from which a request comes
PROXIES = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7"


def trust_proxies() -> None:
    """Makes the web server take the visitor's address from X-Forwarded-For where a trusted proxy has written it.

    On a Space every connection comes from the Hub's proxy. The server takes the last address in the header that is no
    proxy's, so an address that the visitor wrote there does not count. FORWARDED_ALLOW_IPS names other proxies. This
    machine is always trusted, because it sends on what a tool asks. Call this before the page is launched.
    """
    named = os.environ.get("FORWARDED_ALLOW_IPS", PROXIES if os.environ.get("SPACE_ID") else "")
    os.environ["FORWARDED_ALLOW_IPS"] = "*" if named == "*" else f"127.0.0.1,::1,{named}".rstrip(",")


def visitor(request: HTTPConnection | Request | None) -> str | None:
    """Who sent a request: an IPv4 address, or the IPv6 network of one household; None for this machine itself.

    The name of a session would not identify a visitor, because anybody can invent any number of names.
    """
    return _visitor_of(request.client.host if request.client else "") if request else None


@lru_cache(1024)
def _visitor_of(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a host name, or invented text: all of those together count as one visitor
        return "unknown"
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return None
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


class Turn:
    """A call that waits for its turn, and then runs. The kinds are those of `AT_ONCE`."""

    def __init__(self, turns: Turns, kind: str, request: Request | None) -> None:
        self.turns, self.kind, self.who = turns, kind, visitor(request)
        self.session = getattr(request, "session_hash", None)
        self.call = request.headers.get(CALL) if request else None
        self.began, self.stopped, self.since = False, False, time.monotonic()

    @property
    def heard(self) -> bool:
        """Whether somebody listens for the answer."""
        return self.session in self.turns.listening

    @property
    def late(self) -> bool:
        return time.monotonic() > self.since + WAIT_SECONDS

    def wait(self, seconds: float = HEARTBEAT_SECONDS) -> int:
        """Waits at most `seconds` for the turn. Returns how many calls come before it; 0 once it has begun or ended.

        Raises Refusal after `WAIT_SECONDS`.
        """
        with self.turns.changed:
            self.turns.changed.wait_for(lambda: self.began or self.stopped or self.late, seconds)
            if self.began or self.stopped:
                return 0
            if self.late:
                raise Refusal(ENGLISH["refused_turn"].format(seconds=WAIT_SECONDS), "")
            before = self.turns.waiting[: self.turns.waiting.index(self)]
            return 1 + sum(turn.kind == self.kind and turn.heard for turn in before)


class Turns:
    """The calls of all visitors. A visitor has at most half of the turns of a kind, and half of the waiting places.

    A call begins when somebody listens for its answer, so nothing is computed that nobody reads. Until then it takes no
    place from others.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: list[Turn] = []
        self.running: list[Turn] = []
        self.listening: Counter[str | None] = Counter({None: 1})  # open streams of events by session
        self.served: dict[str | None, int] = {}  # number of a visitor's latest turn, for the latest thousand visitors
        self.count = 0

    @contextmanager
    def take(self, kind: str, request: Request | None) -> Iterator[Turn]:
        """A place among the calls until the context ends. Raises Refusal where there is none."""
        turn = Turn(self, kind, request)
        with self.changed:
            if turn.who and [each.who for each in self.waiting + self.running].count(turn.who) >= SHARE:
                raise Refusal(ENGLISH["refused_share"].format(share=SHARE), "")
            if sum(each.heard for each in self.waiting) >= WAITING:
                raise Refusal(ENGLISH["refused_busy"], "")
            self.waiting.append(turn)
            for each in [each for each in self.waiting if not each.heard][:-UNHEARD]:
                each.since = -math.inf  # too late
            self._begin()
        try:
            yield turn
        finally:
            with self.changed:
                (self.running if turn.began else self.waiting).remove(turn)
                self._begin()

    @contextmanager
    def now(self, kind: str, request: Request | None) -> Iterator[None]:
        """Waits for a turn without a sign of life, and holds it until the context ends. Raises Refusal."""
        with self.take(kind, request) as turn:
            while turn.wait():
                pass
            if not turn.began:
                raise Refusal("the call was stopped", "")
            yield

    @contextmanager
    def listen(self, session: str) -> Iterator[None]:
        """Notes that somebody listens for the answers of a session until the context ends."""
        self._listen(session, 1)
        try:
            yield
        finally:
            self._listen(session, -1)

    def _listen(self, session: str, change: int) -> None:
        with self.changed:
            self.listening[session] += change
            if not self.listening[session]:
                del self.listening[session]
                for turn in self.waiting:
                    if turn.session == session:
                        turn.since = -math.inf  # its reader has left: too late
            self._begin()

    def stop(self, **which: object) -> None:
        """Ends the calls that have these attributes, as if they had reached their end."""
        with self.changed:
            for turn in self.waiting + self.running:
                turn.stopped = turn.stopped or all(getattr(turn, name) == value for name, value in which.items())
            self.changed.notify_all()

    def _begin(self) -> None:
        """Begins every call whose turn has come. The caller holds the lock."""
        for kind, most in AT_ONCE.items():
            while (turn := self._next(kind, most)) is not None:
                self.waiting.remove(turn)
                self.running.append(turn)
                turn.began = True
                self.count += 1
                self.served.pop(turn.who, None)
                self.served[turn.who] = self.count
                if len(self.served) > 1000:
                    del self.served[next(iter(self.served))]
        self.changed.notify_all()

    def _next(self, kind: str, most: int) -> Turn | None:
        """The call of the visitor with the fewest running calls; of those, of who had no turn for the longest time."""
        running = Counter(turn.who for turn in self.running if turn.kind == kind)
        if running.total() >= most:
            return None
        running[None] = 0  # this machine's own calls have no share
        ready = [turn for turn in self.waiting if turn.kind == kind and turn.heard]
        ready = [turn for turn in ready if running[turn.who] < max(1, most // 2)]
        return min(ready, key=lambda turn: (running[turn.who], self.served.get(turn.who, 0)), default=None)
