"""The page's speeds over HTTP, with the best model of artifacts/, on two cores that do nothing else meanwhile.

The readers share the cores with the page. The assertions are limits; docs/lab-notes.md has the targets and what was
found.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import ROOT, serve

from model.sampling import USUAL
from page.scheduler import STORIES
from tests.torture.reader import Reader, together


def speed(readers: list[Reader]) -> float:
    """Characters per second of all readers together."""
    seconds = max(each.times[-1] for each in readers) - min(each.asked for each in readers)
    return sum(len(each.text) - len(each.prompt) for each in readers) / seconds


def report(what: str, seconds: list[float]) -> float:
    """Prints the median and the 95th percentile in milliseconds; returns the median."""
    ranked = sorted(1000 * each for each in seconds)
    median, p95, worst = statistics.median(ranked), ranked[int(0.95 * len(ranked))], ranked[-1]
    print(f"\n{what}: median {median:.0f} ms, p95 {p95:.0f}, worst {worst:.0f} ({len(ranked)} times)", end="")
    return median


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A warmed-up server without PyTorch."""
    with serve(tmp_path_factory.mktemp("load"), ROOT / "artifacts", torch=False) as server:
        together(server, STORIES, 600, 1)
        yield server
        assert server.complaints() == []


def test_the_first_character_of_one_reader(server):
    firsts = [together(server, 1, 30, seed)[0].first for seed in range(21)]
    assert report("first character, one reader", firsts) < 60


def test_eight_readers_at_once(server):
    alone, crowd, firsts = [], [], []
    for seed in range(0, 50, 10):
        alone.append(speed(together(server, 1, 600, seed)))
        readers = together(server, STORIES, 600, seed)
        crowd.append(speed(readers))
        firsts += [each.first for each in readers]
    one, all_ = statistics.median(alone), statistics.median(crowd)
    report(f"first character, {STORIES} readers at once", firsts)
    print(
        f"\ncharacters/s over HTTP: one reader {one:,.0f}, {STORIES} readers {all_:,.0f}, {all_ / one:.2f} times",
        end="",
    )
    assert sorted(firsts)[int(0.95 * len(firsts))] < 0.4
    assert all_ > 1.8 * one


def test_drafts_of_one_reader_and_of_eight(server):
    """Stories with the page's default settings: the best of several drafts, a sentence at a time."""
    alone = [together(server, 1, USUAL.length, seed, sampling=USUAL)[0] for seed in range(15)]
    crowd = [each for seed in (100, 200, 300) for each in together(server, STORIES, USUAL.length, seed, sampling=USUAL)]
    first = report("first sentence, one reader", [each.first for each in alone])
    report(f"first sentence, {STORIES} readers at once", [each.first for each in crowd])
    one, each_of = statistics.median(speed([it]) for it in alone), [speed([it]) for it in crowd]
    slowest, median = min(each_of), statistics.median(each_of)
    each = f"each of {STORIES} {median:,.0f}, the slowest {slowest:,.0f}"
    print(f"\ncharacters/s with drafts: one reader {one:,.0f}, {each}", end="")
    assert first < 300 and one > 400
    assert sorted(it.first for it in crowd)[int(0.95 * len(crowd))] < 1.5 and slowest > 60


def test_eight_readers_while_others_compare(server):
    """Four visitors request comparisons all the time; the page tells one comparison at a time."""
    functions = httpx.get(f"{server.url}/config").json()["dependencies"]
    number = next(it["id"] for it in functions if it["api_name"] == "compare")
    over = threading.Event()

    def compare(i: int) -> int:
        told, who = 0, {"X-Forwarded-For": f"203.0.113.{i}"}
        with httpx.Client(base_url=f"{server.url}/gradio_api", headers=who, timeout=60) as client:
            while not over.is_set():
                session = f"comparing{i}x{told}"
                asked = {"data": ["Once", 600, 0.9, 0, 1, 0, told, 1, 1], "fn_index": number, "session_hash": session}
                assert client.post("/queue/join", json=asked).status_code == 200
                assert '"success":true' in client.get("/queue/data", params={"session_hash": session}).text
                told += 1
        return told

    firsts = []
    with ThreadPoolExecutor(4) as others:
        comparisons = [others.submit(compare, i) for i in range(4)]
        time.sleep(0.5)
        for seed in range(0, 50, 10):
            firsts += [each.first for each in together(server, STORIES, 600, seed)]
        over.set()
    told = sum(each.result() for each in comparisons)
    report(f"first character, {STORIES} readers at once while {told} comparisons are told", firsts)
    assert sorted(firsts)[int(0.95 * len(firsts))] < 0.4


@pytest.mark.parametrize("readers", [1, STORIES])
def test_a_full_context_causes_no_pause(server, readers):
    """The prompt leaves room for some hundred characters, so all stories fill the context at the same time."""
    prompt = ("Once upon a time, there was a little girl named Lily. She had a red ball. " * 20)[:900]
    stories = [each for seed in range(5) for each in together(server, readers, 600, 100 * seed, prompt)]
    assert any(len(each.text) > 1024 + 64 for each in stories)
    pauses = [it.longest_pause for it in stories]
    report(f"longest pause of a story across a full context, {readers}", pauses)
    assert max(pauses) < 0.1


def test_leaving_frees_the_place(server):
    seconds = []
    for seed in range(0, 100, 10):
        readers = [Reader(server, 4000, seed + i, address=f"198.51.100.{i}") for i in range(STORIES)]
        for each in readers:
            each.piece()
        waiting = Reader(server, 1, seed)
        left = time.monotonic()
        readers[seed // 10 % STORIES].close()
        seconds.append(waiting.whole().times[0] - left)
        for each in readers:
            each.close()
    assert report("from a reader's leaving to the first character of the next in line", seconds) < 200


def test_memory(server):
    status = Path(f"/proc/{server.pid}/status").read_text()
    megabytes = int(status.split("VmRSS:")[1].split()[0]) / 1024
    print(f"\nmemory after all that: {megabytes:.0f} MB", end="")
    assert megabytes < 400


def test_start(tmp_path):
    seconds = {"absent": [], "there": [], "imported": []}
    for turn in range(3):
        for name in ("absent", "there"):
            home = tmp_path / f"{name}{turn}"
            home.mkdir()
            with serve(home, ROOT / "artifacts", torch=name == "there") as server:
                seconds[name].append(server.seconds)
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        seconds["imported"].append(time.monotonic() - began)
    absent, there, imported = (statistics.median(each) for each in seconds.values())
    print(
        f"\nto the first answer: torch absent {absent:.2f} s, there {there:.2f} s; import torch takes {imported:.2f} s"
    )
    assert absent < 6
    assert there < absent + 1  # the page does not import torch
