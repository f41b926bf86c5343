"""The queue: each visitor has a limited share of places and turns, and waits for a limited time."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from types import SimpleNamespace

import httpx
import pytest
from fastapi import Request
from gradio import Blocks, api
from gradio.data_classes import PredictBodyInternal
from gradio.server_messages import ProcessStartsMessage
from serving import serve_tiny
from uvicorn.middleware.proxy_headers import _TrustedHosts

from page import fair_queue
from page.scheduler import STORIES
from tests.torture.record import record

COMMAND = ".venv/bin/python -m pytest tests/test_fair_queue.py"
WAITING = 32  # as in app.py
LONG = ["tiny", "Tom", 4000, 0.8, 0, 1, 0, 7, 1, 1]
REFUSED = "16 requests from your address are waiting, running or unread, which is the limit: wait until one ends"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve_tiny(tmp_path_factory.mktemp("fair_queue")) as server:
        yield server


@contextmanager
def visitor(server, address: str):
    """A visitor behind a proxy on this machine. The server trusts the proxy to name the visitor's address."""
    with httpx.Client(base_url=f"{server.url}/gradio_api", headers={"X-Forwarded-For": address}, timeout=60) as client:
        yield client


def ask(client: httpx.Client, *values: object) -> httpx.Response:
    return client.post("/call/tell", json={"data": list(values)})


def refusal(client: httpx.Client, asked: httpx.Response) -> str:
    """The refusal of an event, which must come at once."""
    answer = client.get(f"/call/tell/{asked.json()['event_id']}", timeout=2).text
    assert answer.startswith("event: error\n")
    return json.loads(answer.split("data: ")[1])["error"]


def leave(client: httpx.Client, events: list[str]) -> None:
    """Begins to read each story, and leaves."""
    for event in events:
        with client.stream("GET", f"/call/tell/{event}"):
            pass


def first_piece(client: httpx.Client, event: str, stack: ExitStack) -> float:
    """Seconds until a story begins; the stream stays open as long as the stack."""
    started = time.monotonic()
    answer = stack.enter_context(client.stream("GET", f"/call/tell/{event}"))
    for line in answer.iter_lines():
        if line.startswith("event: generating"):
            return time.monotonic() - started
    raise AssertionError("no story began")


@pytest.mark.alone
def test_one_visitor_cannot_starve_the_others(server):
    with visitor(server, "198.51.100.7") as greedy, visitor(server, "203.0.113.9") as other, ExitStack() as stack:
        events = [ask(greedy, *LONG).json()["event_id"] for _ in range(WAITING // 2)]
        assert refusal(greedy, ask(greedy, *LONG)) == REFUSED
        forged = {"X-Forwarded-For": "192.0.2.1, 198.51.100.7"}  # the first address is invented
        assert refusal(greedy, greedy.post("/call/tell", json={"data": LONG}, headers=forged)) == REFUSED
        for event in events[: STORIES // 2]:
            first_piece(greedy, event, stack)
        waited = [first_piece(other, ask(other, *LONG).json()["event_id"], stack) for _ in range(STORIES // 2)]
        leave(greedy, events[STORIES // 2 :])
    assert max(waited) < 2, "the other half of the turns must be free"
    outcome = f"16 accepted, the 17th refused; another visitor's stories began within {max(waited):.1f} s"
    record("one visitor asks for as many stories as possible", len(events) + 1, outcome, COMMAND, section="The page")


def test_after_they_left_all_turns_are_free(server):
    with ExitStack() as stack:
        for last in range(STORIES):
            client = stack.enter_context(visitor(server, f"203.0.113.{last}"))
            assert first_piece(client, ask(client, *LONG).json()["event_id"], stack) < 10


def test_a_story_that_was_left_cannot_be_read_again(server):
    """Gradio would begin an answer and break it off, as long as the story has not ended."""
    with visitor(server, "203.0.113.30") as reader:
        event = ask(reader, *LONG).json()["event_id"]
        with reader.stream("GET", f"/call/tell/{event}") as answer:
            next(answer.iter_lines())
        until = time.monotonic() + 5
        while (again := reader.get(f"/call/tell/{event}")).status_code == 200:  # leaving not noticed yet
            assert time.monotonic() < until
        assert again.status_code == 404 and again.json()["detail"].startswith("event_id is unknown: ")
        nameless = reader.post("/queue/join", json={"data": LONG, "fn_index": tell_number(server)})
        assert nameless.status_code == 400 and nameless.json()["detail"].startswith("session_hash must be")


def test_a_tool_call_counts_for_its_visitor(server):
    """Gradio itself would call its page from this machine, whose calls have no limit."""
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "tell", "arguments": {"length": 4000}},
    }
    headers = {"Accept": "application/json, text/event-stream"}
    with visitor(server, "198.51.100.8") as greedy:
        events = [ask(greedy, *LONG).json()["event_id"] for _ in range(WAITING // 2)]
        answer = greedy.post("/mcp/", json=call, headers=headers)
        assert "16 requests from your address" in answer.text
        leave(greedy, events)


def test_two_stops_at_once_lose_no_place(server):
    number = tell_number(server)

    def stop_twice(hasty: httpx.Client, name: str) -> list[int]:
        asked = hasty.post("/queue/join", json={"data": LONG, "fn_index": number, "session_hash": name})
        stop = {"event_id": asked.json()["event_id"], "session_hash": name, "fn_index": number}
        time.sleep(0.05)
        stops = [stopping.submit(hasty.post, "/cancel", json=stop) for _ in range(2)]
        statuses = [it.result().status_code for it in stops]
        hasty.get("/queue/data", params={"session_hash": name})
        return statuses

    with (
        visitor(server, "198.51.100.20") as hasty,
        ThreadPoolExecutor(8) as stopping,
        ThreadPoolExecutor(4) as visits,
    ):
        names = [f"hasty{n}" for n in range(WAITING // 2 + 1)]
        assert list(visits.map(stop_twice, [hasty] * len(names), names)) == [[200, 200]] * len(names)
        event = ask(hasty, "tiny", "Tom", 1, 0.8, 0, 1, 0, 7, 1, 1).json()["event_id"]
        assert "event: complete" in hasty.get(f"/call/tell/{event}").text
    outcome = "both answered each time, and no place of the visitor's share was lost"
    record("a story stopped twice at once", len(names), outcome, COMMAND, section="The page")


def test_unread_answers_count_towards_the_share(server):
    with visitor(server, "198.51.100.21") as client:
        events = [ask(client, "tiny", "Tom", 1, 0.8, 0, 1, 0, 7, 1, 1).json()["event_id"] for _ in range(WAITING // 2)]
        time.sleep(1)
        assert refusal(client, ask(client, *LONG)) == REFUSED
        assert "event: complete" in client.get(f"/call/tell/{events[0]}").text
        event = ask(client, "tiny", "Tom", 1, 0.8, 0, 1, 0, 7, 1, 1).json()["event_id"]
        assert "event: complete" in client.get(f"/call/tell/{event}").text


@pytest.mark.alone
def test_many_tool_calls_at_once_do_not_block_the_page(server):
    """Gradio itself would hold one of the 40 threads that serve pages for each call, and notice leaving too late."""
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "tell", "arguments": {"length": 4000}},
    }

    async def ask_all() -> list[float]:
        waited = []
        async with AsyncExitStack() as stack:
            calls = []
            for address in ("198.51.100.31", "198.51.100.32", "198.51.100.33"):
                sent = {"X-Forwarded-For": address, "Accept": "application/json, text/event-stream"}
                client = httpx.AsyncClient(base_url=f"{server.url}/gradio_api", headers=sent, timeout=60)
                await stack.enter_async_context(client)
                calls += [asyncio.create_task(client.post("/mcp/", json=call)) for _ in range(15)]
            await asyncio.sleep(1)
            async with httpx.AsyncClient(base_url=server.url, timeout=20) as other:
                for path in ("/", "/config", "/gradio_api/info"):
                    started = time.monotonic()
                    assert (await other.get(path)).status_code == 200
                    waited.append(time.monotonic() - started)
            assert queue_size(server) > 0
            for task in calls:
                task.cancel()
        return waited

    waited = max(asyncio.run(ask_all()))
    assert waited < 2
    left = time.monotonic()
    while queue_size(server):
        assert time.monotonic() < left + 5
        time.sleep(0.05)
    emptied = time.monotonic() - left
    with ExitStack() as stack:
        for last in range(STORIES):
            client = stack.enter_context(visitor(server, f"198.51.100.{40 + last}"))
            assert first_piece(client, ask(client, *LONG).json()["event_id"], stack) < 5
    outcome = f"other visitors got the page within {waited:.1f} s; the queue was empty {emptied:.1f} s after they left"
    record("stories asked for over MCP at once, by three visitors who leave", 45, outcome, COMMAND, section="The page")


def queue_size(server) -> int:
    return httpx.get(f"{server.url}/gradio_api/queue/status").json()["queue_size"]


def tell_number(server) -> int:
    functions = httpx.get(f"{server.url}/config").json()["dependencies"]
    return next(it["id"] for it in functions if it["api_name"] == "tell")


def request(host: str) -> Request:
    return Request({"type": "http", "headers": [], "client": (host, 1)})


def test_which_visitor_sent_a_request():
    assert [fair_queue.visitor(request(host)) for host in ("127.0.0.1", "::1")] == [None, None]
    for host in ("198.51.100.7", "::ffff:198.51.100.7"):
        assert fair_queue.visitor(request(host)) == "198.51.100.7"
    assert fair_queue.visitor(request("::ffff:127.0.0.1")) is None
    assert (
        fair_queue.visitor(request("2001:db8:1:2:3::4"))
        == fair_queue.visitor(request("2001:db8:1:2:9::9"))
        == "2001:db8:1:2::/64"
    )
    assert fair_queue.visitor(request("made up")) == fair_queue.visitor(request("something else")) == "unknown"
    assert fair_queue.visitor(Request({"type": "http", "headers": [], "client": None})) == "unknown"


def test_proxies_are_trusted_only_on_a_space(monkeypatch):
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    monkeypatch.delenv("SPACE_ID", raising=False)
    fair_queue.trust_the_hub()
    assert "FORWARDED_ALLOW_IPS" not in fair_queue.os.environ
    monkeypatch.setenv("SPACE_ID", "ann/stories")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "192.0.2.1")
    fair_queue.trust_the_hub()
    assert fair_queue.os.environ["FORWARDED_ALLOW_IPS"] == "192.0.2.1"
    monkeypatch.delenv("FORWARDED_ALLOW_IPS")
    fair_queue.trust_the_hub()
    trusted = _TrustedHosts(fair_queue.os.environ["FORWARDED_ALLOW_IPS"])
    monkeypatch.delenv("FORWARDED_ALLOW_IPS")
    assert "10.16.3.80" in trusted and "198.51.100.7" not in trusted
    assert trusted.get_trusted_client_address("192.0.2.1, 198.51.100.7, 10.0.0.1")[0] == "198.51.100.7"


def test_an_event_that_waits_too_long_is_refused():
    async def wait() -> tuple[object, object, fair_queue.FairQueue]:
        with Blocks() as page:
            api(lambda: None, api_name="nothing")
        queue = fair_queue.FairQueue(page, 4)
        body = PredictBodyInternal(data=[], fn_index=0, session_hash="late")
        _, event, _ = await queue.push(body, request("198.51.100.7"), None)
        queue.event_ids_to_events[event].enqueue_time -= fair_queue.WAIT_SECONDS + 1
        started = queue.get_events()
        messages = queue.pending_messages_per_session["late"]
        messages.get_nowait()  # the message about its place in the queue
        return started, messages.get_nowait(), queue

    started, told, queue = asyncio.run(wait())
    assert started is None and len(queue) == 0 and queue.event_ids_to_events == {}
    late = "your request did not start within 60 seconds, because others are waiting too: try again later"
    assert told.output["error"] == late


def test_one_event_at_a_time_is_fair_too():
    """Where one event runs at a time, as in Compare, no visitor has a running one when the next is chosen."""

    async def serve() -> list[str]:
        with Blocks() as page:
            api(lambda: None, api_name="nothing")
        queue = fair_queue.FairQueue(page, 32)
        for host in ("198.51.100.7",) * 4 + ("203.0.113.9",) * 2 + ("192.0.2.3",):
            await queue.push(PredictBodyInternal(data=[], fn_index=0, session_hash=host), request(host), None)
        chosen = []
        while (found := queue.get_events()) is not None:
            chosen.append(fair_queue.visitor(found[0][0].request))
        return chosen

    first, second, third = "198.51.100.7", "203.0.113.9", "192.0.2.3"
    assert asyncio.run(serve()) == [first, second, third, first, second, first, first]


def a_minute_later(queue: fair_queue.FairQueue) -> None:
    """Checks again, as if messages had been unread for more than a minute."""
    queue.unread = {name: (it, since - fair_queue.UNREAD_SECONDS - 1) for name, (it, since) in queue.unread.items()}
    queue.checked = 0
    queue._check_waiting()


def test_what_is_not_read_for_a_minute_is_dropped():
    """Even of a session that asks again without reading. One that reads, and asks again before a check, is kept."""

    async def wait() -> fair_queue.FairQueue:
        with Blocks() as page:
            api(lambda: None, api_name="nothing")
        queue = fair_queue.FairQueue(page, 9)

        async def ask(name: str) -> None:
            await queue.push(PredictBodyInternal(data=[], fn_index=0, session_hash=name), request("198.51.100.7"), None)

        for name in ("unreading", "eager", "late"):
            await ask(name)
        queue.pending_messages_per_session["late"].get_nowait()  # this session reads, and waits
        queue._check_waiting()
        assert queue.unread.keys() == {"unreading", "eager"}
        queue.pending_messages_per_session["eager"].get_nowait()
        for name in ("unreading", "eager"):
            await ask(name)
        a_minute_later(queue)
        alive = {event.session_hash: event.alive for event in queue.event_ids_to_events.values()}
        assert alive == {"unreading": False, "eager": True, "late": True}
        for event in queue.event_ids_to_events.values():
            queue.send_message(event, ProcessStartsMessage())  # to a dropped session, or to one that reads
        return queue

    queue = asyncio.run(wait())
    assert set(queue.pending_messages_per_session) == set(queue.pending_event_ids_session) == {"eager", "late"}


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # from Gradio's own code
def test_an_event_that_gradio_fails_to_begin_is_answered():
    async def fail() -> tuple[object, fair_queue.FairQueue]:
        with Blocks() as page:
            api(lambda: None, api_name="nothing")
        queue = fair_queue.FairQueue(page, 4)
        queue.server_app = SimpleNamespace(get_blocks=lambda: page, iterators={}, root_path="")
        body = PredictBodyInternal(data=[], fn_index=0, session_hash="odd")
        await queue.push(body, request("198.51.100.7"), None)  # a request without an address, which Gradio needs
        events, batch, _ = queue.get_events()
        await queue.process_events(events, batch, time.time(), page.fns[0])
        messages = queue.pending_messages_per_session["odd"]
        return [messages.get_nowait() for _ in range(messages.qsize())][-1], queue

    told, queue = asyncio.run(fail())
    assert told.output["error"] == "the page could not answer this request: try again" and not told.success
    assert queue.event_ids_to_events == {} and queue.answered == set()
