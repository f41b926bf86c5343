"""Turns: each visitor has a limited share of them, and waits for a limited time."""

from __future__ import annotations

import asyncio
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from fastapi import Request
from serving import serve_tiny
from uvicorn.middleware.proxy_headers import _TrustedHosts

from page import turns, unread
from page.limits import Refusal
from page.turns import AT_ONCE, SHARE, Turns
from tests.torture.record import record

COMMAND = ".venv/bin/python -m pytest tests/test_turns.py"
STORIES = AT_ONCE["stories"]
LONG = ["tiny", "Tom", 4000, 0.8, 0, 1, 0, 7, 1, 1]
SHORT = ["tiny", "Tom", 1, 0.8, 0, 1, 0, 7, 1, 1]
REFUSED = "16 requests from your address are waiting or running, which is the limit: wait until one ends"
TOOL_CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
TOOL_CALL |= {"params": {"name": "tell", "arguments": {"length": 4000}}}
STREAMED = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve_tiny(tmp_path_factory.mktemp("turns")) as server:
        yield server


@contextmanager
def visitor(server, address: str):
    """A visitor behind a proxy on this machine. The server trusts the proxy to name the visitor's address."""
    with httpx.Client(base_url=f"{server.url}/gradio_api", headers={"X-Forwarded-For": address}, timeout=60) as client:
        yield client


def ask(client: httpx.Client, *values: object, **headers: str) -> str:
    return client.post("/call/tell", json={"data": list(values)}, headers=headers).json()["event_id"]


def refusal(client: httpx.Client, event: str) -> str:
    """The refusal of a call, which must come at once."""
    answer = client.get(f"/call/tell/{event}", timeout=2).text
    assert answer.startswith("event: error\n")
    return json.loads(answer.split("data: ")[1])["error"]


def open_streams(client: httpx.Client, count: int, stack: ExitStack) -> list[httpx.Response]:
    """Asks for long stories, and listens for each as long as the stack is open."""
    return [stack.enter_context(client.stream("GET", f"/call/tell/{ask(client, *LONG)}")) for _ in range(count)]


def first_piece(client: httpx.Client, stack: ExitStack) -> float:
    """Seconds until a story has its first character; the stream stays open as long as the stack."""
    started = time.monotonic()
    [answer] = open_streams(client, 1, stack)
    for line in answer.iter_lines():
        if line.startswith("data: [") and json.loads(line.removeprefix("data: "))[-1]["characters"]:
            return time.monotonic() - started
    raise AssertionError("no story began")


@pytest.mark.alone
def test_one_visitor_cannot_starve_the_others(server):
    with visitor(server, "198.51.100.7") as greedy, visitor(server, "203.0.113.9") as other, ExitStack() as stack:
        open_streams(greedy, SHARE, stack)
        assert refusal(greedy, ask(greedy, *LONG)) == REFUSED
        forged = {"X-Forwarded-For": "192.0.2.1, 198.51.100.7"}  # the first address is invented
        assert refusal(greedy, ask(greedy, *LONG, **forged)) == REFUSED
        waited = [first_piece(other, stack) for _ in range(STORIES // 2)]
    assert max(waited) < 2, "the other half of the turns must be free"
    outcome = f"16 accepted, the 17th refused; another visitor's stories began within {max(waited):.1f} s"
    record("one visitor asks for as many stories as possible", SHARE + 1, outcome, COMMAND, section="The page")


def test_after_they_left_all_turns_are_free(server):
    with ExitStack() as stack:
        for last in range(STORIES):
            client = stack.enter_context(visitor(server, f"203.0.113.{last}"))
            assert first_piece(client, stack) < 10


def test_a_call_begins_when_somebody_listens_and_counts_until_then(server):
    with visitor(server, "198.51.100.21") as client, ExitStack() as stack:
        events = [ask(client, *SHORT) for _ in range(SHARE)]
        time.sleep(1)
        assert refusal(client, ask(client, *LONG)) == REFUSED
        assert "event: complete" in client.get(f"/call/tell/{events[0]}").text
        assert first_piece(client, stack) < 2
        for event in events[1:]:
            assert "event: complete" in client.get(f"/call/tell/{event}").text


def test_calls_that_nobody_listens_to_take_no_place_from_others(server):
    """Of three visitors, who together could fill all places."""
    asked = {"data": ["tiny", "Tom ran."]}
    with ExitStack() as stack:
        for last in range(3):
            client = stack.enter_context(visitor(server, f"198.51.100.{60 + last}"))
            for _ in range(SHARE):
                assert client.post("/call/score", json=asked).status_code == 200
        assert first_piece(stack.enter_context(visitor(server, "198.51.100.70")), stack) < 2


def test_unread_answers_have_a_limit(server):
    """Gradio keeps each until it is read, also what it answers at once."""
    functions = httpx.get(f"{server.url}/config").json()["dependencies"]
    number = next(it["id"] for it in functions if it["api_name"] == "models")
    asked = {"data": [], "fn_index": number, "session_hash": "unread"}
    with visitor(server, "198.51.100.80") as hasty, visitor(server, "198.51.100.81") as other:
        statuses = [hasty.post("/queue/join", json=asked).status_code for _ in range(unread.MOST + 1)]
        assert statuses == [200] * unread.MOST + [429]
        assert "answers for your address are unread" in hasty.post("/call/models", json={"data": []}).text
        assert other.post("/call/models", json={"data": []}).status_code == 200
        read = hasty.get("/queue/data", params={"session_hash": "unread"}).text
        assert read.count('"msg":"process_completed"') == unread.MOST
        assert hasty.post("/queue/join", json=asked).status_code == 200
        for _ in range(2 * unread.MOST):  # who reads has no limit
            event = hasty.post("/call/models", json={"data": []}).json()["event_id"]
            assert "event: complete" in hasty.get(f"/call/models/{event}").text


def test_unread_answers_count_for_a_minute_unless_somebody_listens(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(unread, "time", SimpleNamespace(monotonic=lambda: now[0]))
    queue = Turns()
    answers = unread.Unread(queue)

    async def send(message: object) -> None: ...

    for session in "ab":
        asyncio.run(answers.called("ann", session, send)({"body": b'{"event_id":"1"}'}))
    assert {name: calls.unread for name, calls in answers.sessions.items()} == {"a": 1, "b": 1}
    now[0] = unread.SECONDS + 1
    with queue.listen("a"):
        assert answers.room("ann") and answers.sessions.keys() == {"a"}


def test_a_tool_call_counts_for_its_visitor(server):
    """Gradio calls its own page for it, from this machine, whose calls have no limit."""
    with visitor(server, "198.51.100.8") as greedy, ExitStack() as stack:
        open_streams(greedy, SHARE, stack)
        assert "16 requests from your address" in greedy.post("/mcp/", json=TOOL_CALL, headers=STREAMED).text


def test_two_cancellations_at_once_lose_no_place(server):
    """As by a Python client; the page itself stops its stories otherwise."""
    functions = httpx.get(f"{server.url}/config").json()["dependencies"]
    number = next(it["id"] for it in functions if it["api_name"] == "tell")

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
        names = [f"hasty{n}" for n in range(SHARE + 1)]
        assert list(visits.map(stop_twice, [hasty] * len(names), names)) == [[200, 200]] * len(names)
        assert "event: complete" in hasty.get(f"/call/tell/{ask(hasty, *SHORT)}").text
    outcome = "both answered each time, and no place of the visitor's share was lost"
    record("a story stopped twice at once", len(names), outcome, COMMAND, section="The page")


@pytest.mark.alone
def test_many_tool_calls_at_once_do_not_block_the_page(server):
    """Gradio holds a thread for each, of those that serve pages, until the story is over."""

    async def ask_all() -> list[float]:
        waited = []
        async with AsyncExitStack() as stack:
            calls = []
            for address in ("198.51.100.31", "198.51.100.32", "198.51.100.33"):
                sent = {"X-Forwarded-For": address, **STREAMED}
                client = httpx.AsyncClient(base_url=f"{server.url}/gradio_api", headers=sent, timeout=60)
                await stack.enter_async_context(client)
                calls += [asyncio.create_task(client.post("/mcp/", json=TOOL_CALL)) for _ in range(15)]
            await asyncio.sleep(1)
            async with httpx.AsyncClient(base_url=server.url, timeout=20) as other:
                for path in ("/", "/config", "/gradio_api/info"):
                    started = time.monotonic()
                    assert (await other.get(path)).status_code == 200
                    waited.append(time.monotonic() - started)
            for task in calls:
                task.cancel()
        return waited

    waited = max(asyncio.run(ask_all()))
    assert waited < 2
    left = time.monotonic()
    with ExitStack() as stack:
        for last in range(STORIES):
            first_piece(stack.enter_context(visitor(server, f"198.51.100.{40 + last}")), stack)
        freed = time.monotonic() - left
    assert freed < 5
    outcome = f"other visitors got the page within {waited:.1f} s; all turns were free {freed:.1f} s after they left"
    record("stories asked for over MCP at once, by three visitors who leave", 45, outcome, COMMAND, section="The page")


def request(host: str, session: str | None = None) -> gr.Request:
    return gr.Request(Request({"type": "http", "headers": [], "client": (host, 1)}), session_hash=session)


def test_which_visitor_sent_a_request():
    assert [turns.visitor(request(host)) for host in ("127.0.0.1", "::1")] == [None, None]
    for host in ("198.51.100.7", "::ffff:198.51.100.7"):
        assert turns.visitor(request(host)) == "198.51.100.7"
    assert turns.visitor(request("::ffff:127.0.0.1")) is None
    household = {turns.visitor(request(host)) for host in ("2001:db8:1:2:3::4", "2001:db8:1:2:9::9")}
    assert household == {"2001:db8:1:2::/64"}
    assert turns.visitor(request("made up")) == turns.visitor(request("something else")) == "unknown"
    assert turns.visitor(Request({"type": "http", "headers": [], "client": None})) == "unknown"


@pytest.mark.parametrize(
    ("given", "space", "trusted"),
    [
        ("192.0.2.1", "", {"192.0.2.1", "127.0.0.1", "::1"}),
        ("192.0.2.1", "ann/stories", {"192.0.2.1", "127.0.0.1", "::1"}),
        ("", "", {"127.0.0.1", "::1"}),
        ("", "ann/stories", {"10.16.3.80", "127.0.0.1", "::1"}),
        ("*", "", {"192.0.2.1", "10.16.3.80", "127.0.0.1", "::1", "198.51.100.7"}),
    ],
)
def test_which_proxies_are_trusted(monkeypatch, given, space, trusted):
    for name, value in (("FORWARDED_ALLOW_IPS", given), ("SPACE_ID", space)):
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    turns.trust_proxies()
    proxies = _TrustedHosts(os.environ["FORWARDED_ALLOW_IPS"])
    hosts = ("192.0.2.1", "10.16.3.80", "127.0.0.1", "::1", "198.51.100.7")
    assert {host for host in hosts if host in proxies} == trusted
    if space and not given:
        assert proxies.get_trusted_client_address("192.0.2.1, 198.51.100.7, 10.0.0.1")[0] == "198.51.100.7"


def test_a_call_that_waits_too_long_is_refused(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: now[0]))
    queue = Turns()
    with queue.take("comparisons", None), queue.take("comparisons", None) as late:
        assert late.wait(0.001) == 1
        now[0] = turns.WAIT_SECONDS + 0.1
        with pytest.raises(Refusal) as refused:
            late.wait(0.001)
    assert refused.value.text == (
        "your request did not start within 60 seconds, because others are waiting too: try again later"
    )
    assert queue.waiting == queue.running == []


def test_the_turns_go_to_who_has_the_fewest_and_waited_longest():
    """Also where one call runs at a time, and nobody who waits has a running one."""
    queue, order = Turns(), []
    first, second, third = "198.51.100.7", "203.0.113.9", "192.0.2.3"
    with ExitStack() as stack:
        for session in "abcdefg":
            stack.enter_context(queue.listen(session))
        running = stack.enter_context(ExitStack())
        running.enter_context(queue.take("comparisons", None))
        hosts = [first] * 4 + [second] * 2 + [third]
        waiting = {}
        for host, session in zip(hosts, "abcdefg", strict=True):
            place = queue.take("comparisons", request(host, session))
            waiting[place.__enter__()] = place
        running.close()
        while waiting:
            turn = next(turn for turn in waiting if turn.began)
            order.append(turn.who)
            waiting.pop(turn).__exit__(None, None, None)
    assert order == [first, second, third, first, second, first, first]


def test_a_visitor_has_half_of_the_turns_and_this_machine_all():
    queue = Turns()
    with ExitStack() as stack:
        for host, most in (("198.51.100.7", STORIES // 2), ("127.0.0.1", STORIES // 2)):
            for n in range(STORIES):
                stack.enter_context(queue.listen(f"{host}-{n}"))
            taken = [stack.enter_context(queue.take("stories", request(host, f"{host}-{n}"))) for n in range(STORIES)]
            assert [turn.began for turn in taken] == [True] * most + [False] * (STORIES - most)
    with ExitStack() as stack:
        assert all(stack.enter_context(queue.take("stories", None)).began for _ in range(STORIES))


def test_stop_ends_only_the_calls_that_it_means():
    queue = Turns()
    with (
        queue.take("stories", request("127.0.0.1", "a")) as story,
        queue.take("comparisons", request("127.0.0.1", "a")) as comparison,
        queue.take("stories", request("127.0.0.1", "b")) as other,
    ):
        queue.stop(kind="stories", session="a")
        assert (story.stopped, comparison.stopped, other.stopped) == (True, False, False)
        assert story.wait(60) == 0, "a call that waits ends at once"


def test_a_look_that_is_stopped_while_it_waits_computes_nothing():
    queue = Turns()
    with ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        for _ in range(AT_ONCE["looks"]):
            stack.enter_context(queue.take("looks", None))

        def look() -> None:
            with queue.now("looks", None):
                raise AssertionError("it has no turn")

        waiting = thread.submit(look)
        while not queue.waiting:
            time.sleep(0.001)
        queue.stop(kind="looks")
        with pytest.raises(Refusal, match="the call was stopped"):
            waiting.result(5)
    assert queue.waiting == queue.running == []


def test_a_look_whose_reader_leaves_while_it_waits_leaves_its_place():
    queue = Turns()
    with ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        for _ in range(AT_ONCE["looks"]):
            stack.enter_context(queue.take("looks", None))
        reader = stack.enter_context(ExitStack())
        reader.enter_context(queue.listen("s"))
        waiting = thread.submit(lambda: queue.now("looks", request("127.0.0.1", "s")).__enter__())
        while not queue.waiting:
            time.sleep(0.001)
        reader.close()
        with pytest.raises(Refusal, match="did not start within 60 seconds"):
            waiting.result(2)
        assert queue.waiting == []
