"""The queue, and whose turn is next: it limits the share of each visitor, and how long a request waits."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import time
from collections import Counter
from functools import lru_cache
from typing import Any

from fastapi import Request
from gradio import Blocks
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage
from gradio.utils import error_payload

from page.limits import Refusal
from page.words import ENGLISH

WAIT_SECONDS = 60  # longest wait for a turn; a request that waits longer is refused
UNREAD_SECONDS = 60  # how long an answer is kept for a client that does not read it
PROXIES = "127.0.0.1,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7"


def trust_the_hub() -> None:
    """Trusts the Hub's proxy on a Space: every connection comes from it, with the visitor's address in X-Forwarded-For.

    The web server then takes the last address in that header that is no proxy's, so an address that the visitor wrote
    there does not count. Call this before the page is launched. Elsewhere, FORWARDED_ALLOW_IPS names the proxies to
    trust.
    """
    if os.environ.get("SPACE_ID"):
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PROXIES)


def visitor(request: Request) -> str | None:
    """Who sent a request: an IPv4 address, or the IPv6 network of one household; None for this machine itself.

    The name of a session would not identify a visitor, because anybody can invent any number of names.
    """
    return _visitor_of(request.client.host if request.client else "")


@lru_cache(1024)  # the queue calls this for all that wait, up to a thousand times a second
def _visitor_of(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a host name, or invented text: all of those together count as one visitor
        return "unknown"
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return None
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


class FairQueue(Queue):
    """Gradio's queue, where a visitor may use at most half of the waiting places and half of the simultaneous turns.

    It answers every event, and drops answers that nobody reads.
    """

    def __init__(self, page: Blocks, places: int) -> None:
        super().__init__(
            live_updates=True, concurrency_count=page.max_threads, update_intervals=1, max_size=places, blocks=page
        )
        self.share = max(1, places // 2)
        self.checked = 0.0  # when the waiting events were last checked
        self.asked: dict[str, str | None] = {}  # visitors by event, for events that wait, run or are unread
        self.unread: dict[str, tuple[EventMessage, float]] = {}  # by session: its oldest message, and since when
        self.served: dict[str, int] = {}  # number of a visitor's latest turn, for the latest thousand visitors
        self.turns = 0
        self.answered: set[str] = set()  # the running events whose last message has been sent

    async def push(self, body: PredictBodyInternal, request: Request, username: str | None) -> tuple[bool, Any, Any]:
        """Takes the event. Refuses one beyond the visitor's share in its stream of messages, which all clients read."""
        who = visitor(request)
        open_events = self.event_ids_to_events.keys() | set().union(*self.pending_event_ids_session.values())
        self.asked = {event_id: asker for event_id, asker in self.asked.items() if event_id in open_events}
        over_limit = who and list(self.asked.values()).count(who) >= self.share
        success, event_id, state = await super().push(body, request, username)
        if success and over_limit:
            self._refuse(self.event_ids_to_events[event_id], ENGLISH["refused_share"].format(share=self.share))
        elif success:
            self.asked[event_id] = who
        return success, event_id, state

    def send_message(self, event: Event, event_message: EventMessage) -> None:
        if isinstance(event_message, ProcessCompletedMessage):
            self.answered.add(event._id)
        if event.session_hash in self.pending_messages_per_session:  # else its messages were dropped unread
            super().send_message(event, event_message)

    async def process_events(self, events: list[Event], *arguments: Any) -> None:
        """Runs the events, and cleans up even where Gradio fails before it answers, or cancels an event twice."""
        try:
            await super().process_events(events, *arguments)
            for event in events:
                if event._id not in self.answered:
                    failed = error_payload(Refusal(ENGLISH["refused_lost"], ""), False)
                    self.send_message(event, ProcessCompletedMessage(output=failed, success=False))
        finally:
            for event in events:
                self.event_ids_to_events.pop(event._id, None)
                self.answered.discard(event._id)

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The event to run next, if there is room for one: that of the visitor with the fewest running events.

        Among visitors with equally many, the one who has waited longest since the last turn comes first. If only one
        event runs at a time, that alone decides, because no waiting visitor has a running event.
        """
        self._check_waiting()
        queues = [queue for queue in self.event_queue_per_concurrency_id.values() if queue.queue]
        for queue in random.sample(queues, len(queues)):
            limit = queue.concurrency_limit
            if limit is not None and queue.current_concurrency >= limit:
                continue
            at_work = [event for job in self.active_jobs if job for event in job]
            running = Counter(visitor(it.request) for it in at_work if it.concurrency_id == queue.concurrency_id)
            running[None] = 0  # this machine's own requests have no limit
            most = max(1, (limit or 2) // 2)
            askers = [visitor(event.request) for event in queue.queue]
            turns = [(running[who], self.served.get(who, 0), rank) for rank, who in enumerate(askers)]
            fewest, _, first = min(turns)
            if fewest < most:
                self._note_turn(askers[first])
                return [queue.queue.pop(first)], False, queue.concurrency_id
        return None

    def _note_turn(self, who: str | None) -> None:
        if who is None:
            return
        self.turns += 1
        self.served.pop(who, None)
        self.served[who] = self.turns
        if len(self.served) > 1000:
            del self.served[next(iter(self.served))]

    async def notify_clients(self) -> None:
        """Runs Gradio's own loop, and beside it a check once a second: while no event waits, nothing else checks."""

        async def check() -> None:
            while not self.stopped:
                await asyncio.sleep(1)
                self._check_waiting()

        await asyncio.gather(super().notify_clients(), check())

    def _check_waiting(self) -> None:
        """Refuses events that have waited too long, and drops answers that stay unread."""
        now = time.monotonic()
        if now < self.checked + 0.2:
            return
        self.checked = now
        text = ENGLISH["refused_turn"].format(seconds=WAIT_SECONDS)
        for queue in self.event_queue_per_concurrency_id.values():
            for event in [each for each in queue.queue if now - each.enqueue_time > WAIT_SECONDS]:
                self._refuse(event, text)
        # Gradio keeps the ids of unread events for ever, and the messages of the latest 2,000 sessions.
        sessions = self.pending_messages_per_session
        # asyncio.Queue has no public method to look at its first item.
        oldest = {name: it._queue[0] for name, it in list(sessions.items()) if not it.empty()}
        known = {name: self.unread.get(name, (None, now)) for name in oldest}
        self.unread = {name: known[name] if known[name][0] is it else (it, now) for name, it in oldest.items()}
        unreading = {name for name, (_, since) in self.unread.items() if now - since > UNREAD_SECONDS}
        for name in unreading:
            del sessions[name]
        for event in self.event_ids_to_events.values() if unreading else ():
            event.alive = event.alive and event.session_hash not in unreading  # its story ends with the next piece
        for name in self.pending_event_ids_session.keys() - sessions.keys():
            del self.pending_event_ids_session[name]

    def _refuse(self, event: Event, text: str) -> None:
        """Answers a waiting event with a refusal."""
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id)
        answer = error_payload(Refusal(text, ""), False)
        self.send_message(event, ProcessCompletedMessage(output=answer, success=False))
        self.answered.discard(event._id)
