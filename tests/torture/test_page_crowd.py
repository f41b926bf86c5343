"""More readers than the page has places for, and readers who leave: all are answered, and no resource is leaked.

With TORTURE=1 this uses the best model of artifacts/, with the readers on the same two cores; otherwise it is a short
form with a tiny model.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import ROOT, Server, save_tiny, serve

from page.scheduler import STORIES
from page.turns import WAIT_SECONDS, WAITING
from tests.torture.reader import Reader, together
from tests.torture.record import FULL, record

CLIENTS, SECONDS, LENGTH = (64, 60, 600) if FULL else (44, 1, 40)
ABANDONED = 1_000 if FULL else 24
PROMPT = "Tom"
FULL_QUEUE = "The queue is full, because many people are asking at once: try again in a minute."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("crowd")
    if not FULL:
        save_tiny(home / "artifacts" / "tiny", nats=1.0, ends=False)
    with serve(home, ROOT / "artifacts" if FULL else home / "artifacts", torch=not FULL) as server:
        # a call that waits has a thread, which has memory
        for readers in (STORIES, STORIES, STORIES + (WAITING if FULL else 0)):
            together(server, readers, LENGTH, 0, PROMPT)
        yield server
        assert server.complaints() == []


def footprint(server: Server) -> tuple[float, int]:
    """Megabytes of resident memory, and the number of threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{server.pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"])


def quiet(server: Server, threads: int) -> tuple[float, int]:
    """The footprint when idle. Idle threads end after ten seconds, at the next request."""
    end = time.monotonic() + 40
    while (now := footprint(server))[1] > threads and time.monotonic() < end:
        time.sleep(2)
        together(server, 1, LENGTH, 0, PROMPT)
    return now


def shares(seconds: list[float]) -> str:
    ranked = sorted(seconds)
    return "/".join(f"{ranked[int(share * len(ranked))]:.1f}" for share in (0.5, 0.95, 0.99))


def test_a_crowd_is_answered_or_told_that_the_queue_is_full(server: Server) -> None:
    before, end = footprint(server), time.monotonic() + SECONDS
    firsts, wholes, refused, lock = [], [], Counter(), threading.Lock()

    def visitor(i: int) -> None:
        seed = 0
        while time.monotonic() < end:
            seed += 1
            story = Reader(server, LENGTH, 1000 * i + seed, PROMPT, f"203.0.113.{i}").whole()
            with lock:
                if story.refused:
                    refused[story.refused] += 1
                else:
                    firsts.append(story.first)
                    wholes.append(story.last)
            if story.refused:
                time.sleep(0.5)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(visitor, range(CLIENTS)))
    after = quiet(server, before[1])
    assert refused.keys() == {FULL_QUEUE}
    assert max(firsts) < WAIT_SECONDS + 2
    assert after[1] <= before[1], "threads stay behind"
    assert after[0] < 1.1 * before[0], f"memory grew from {before[0]:.0f} to {after[0]:.0f} MB"
    outcome = (
        f"{len(wholes):,} stories of up to {LENGTH} characters told, {refused.total():,} requests refused because the "
        f"queue was full; seconds to the first character {shares(firsts)} (p50/p95/p99), to the end {shares(wholes)}; "
        f"memory {before[0]:.0f} MB before and {after[0]:.0f} after, threads {before[1]} and {after[1]}"
    )
    tried = len(wholes) + refused.total()
    record(f"{CLIENTS} clients for {SECONDS} s", tried, outcome, 'make torture ARGS="-k crowd_is"', section="The page")


def test_who_leaves_after_the_first_piece_leaves_nothing_behind(server: Server) -> None:
    before = footprint(server)

    def glance(i: int) -> None:
        while (story := Reader(server, 4000, i, PROMPT, f"192.0.2.{i % 250}")).refused:
            time.sleep(0.1)
        assert story.piece(), story.refused
        story.close()

    with ThreadPoolExecutor(STORIES) as pool:
        list(pool.map(glance, range(ABANDONED)))
    began = time.monotonic()
    together(server, STORIES, LENGTH, 0, PROMPT)  # all places are free
    seconds = time.monotonic() - began
    after = quiet(server, before[1])
    assert after[1] <= before[1], "threads stay behind"
    assert after[0] < 1.1 * before[0], f"memory grew from {before[0]:.0f} to {after[0]:.0f} MB"
    outcome = (
        f"every place was free again: {STORIES} stories at once took {seconds:.1f} s afterwards; "
        f"memory {before[0]:.0f} MB before and {after[0]:.0f} after, threads {before[1]} and {after[1]}"
    )
    command = 'make torture ARGS="-k leaves_after"'
    record("requests abandoned after the first piece", ABANDONED, outcome, command, section="The page")
