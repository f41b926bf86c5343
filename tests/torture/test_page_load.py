"""The page's figures over HTTP, with the best model of artifacts/: for a machine that does nothing else meanwhile.

The client of the measurements runs on the same cores. A second file of the server's is not opened: what is measured is
`python app.py`, from its start to many readers.
"""

from __future__ import annotations

import http.client
import json
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from serving import ROOT, Server, serve

from model.batching import STORIES

PROMPT = "Once upon a time there was an "  # 30 characters


class Reader:
    """One story, asked for over plain HTTP; when each of its pieces came."""

    def __init__(self, server: Server, length: int, seed: int) -> None:
        self.asked, self.times, self.text = time.monotonic(), [], ""
        self.connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        body = json.dumps({"data": ["", PROMPT, length, 0.8, 0, 1.0, 0.0, seed]})
        self.connection.request("POST", "/gradio_api/call/tell", body, {"Content-Type": "application/json"})
        event = json.load(self.connection.getresponse())["event_id"]
        self.connection.request("GET", f"/gradio_api/call/tell/{event}")
        self.answer = self.connection.getresponse()

    def piece(self) -> bool:
        """Waits for the next piece; False after the last."""
        while line := self.answer.readline().decode():
            if line.startswith("data: ["):
                self.times.append(time.monotonic())
                self.text = json.loads(line.removeprefix("data: "))[0]
                return True
        return False

    def whole(self) -> Reader:
        while self.piece():
            pass
        self.close()
        return self

    def close(self) -> None:
        self.answer.close()
        self.connection.close()

    @property
    def first(self) -> float:
        """Seconds until there was more than the prompt."""
        return self.times[0] - self.asked

    @property
    def longest_pause(self) -> float:
        return max(after - before for before, after in pairwise(self.times))


def together(server: Server, readers: int, length: int, seed: int) -> list[Reader]:
    with ThreadPoolExecutor(readers) as pool:
        return list(pool.map(lambda i: Reader(server, length, seed + i).whole(), range(readers)))


def speed(readers: list[Reader]) -> float:
    """Characters per second of all together."""
    seconds = max(each.times[-1] for each in readers) - min(each.asked for each in readers)
    return sum(len(each.text) - len(PROMPT) for each in readers) / seconds


def megabytes(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Warm, without PyTorch."""
    with serve(tmp_path_factory.mktemp("load"), ROOT / "artifacts", torch=False) as server:
        together(server, STORIES, 600, 1)
        yield server
        assert server.complaints() == []


def test_the_first_character_of_one_reader(server):
    firsts = [together(server, 1, 30, seed)[0].first for seed in range(21)]
    print(
        f"\nfirst character, one reader: median {statistics.median(firsts) * 1000:.0f} ms, worst {max(firsts) * 1000:.0f}"
    )
    assert statistics.median(firsts) < 0.06


def test_eight_readers_at_once(server):
    alone, crowd, firsts = [], [], []
    for round_ in range(5):
        alone.append(speed(together(server, 1, 600, round_)))
        readers = together(server, STORIES, 600, 10 * round_)
        crowd.append(speed(readers))
        firsts += [each.first for each in readers]
    p95 = sorted(firsts)[int(0.95 * len(firsts))]
    gain = statistics.median(crowd) / statistics.median(alone)
    print(
        f"\n{STORIES} readers at once: first character p95 {p95 * 1000:.0f} ms, median {statistics.median(firsts) * 1000:.0f}"
    )
    print(
        f"characters/s over HTTP: one {statistics.median(alone):,.0f}, all {statistics.median(crowd):,.0f}: {gain:.2f} times"
    )
    assert p95 < 0.4
    assert gain > 1.8


@pytest.mark.parametrize("readers", [1, STORIES])
def test_a_full_context_is_no_pause(server, readers):
    pauses = sorted(each.longest_pause for seed in range(3) for each in together(server, readers, 4000, 100 * seed))
    print(
        f"\nlongest pause in 4,000 characters, {readers} readers: median {pauses[len(pauses) // 2] * 1000:.0f} ms, worst {pauses[-1] * 1000:.0f}"
    )
    assert pauses[len(pauses) // 2] < 0.15


def test_leaving_frees_the_place(server):
    seconds = []
    for round_ in range(10):
        readers = [Reader(server, 4000, 10 * round_ + i) for i in range(STORIES)]
        for each in readers:
            each.piece()
        waiting = Reader(server, 1, round_)
        left = time.monotonic()
        readers[round_ % STORIES].close()
        waiting.whole()
        seconds.append(waiting.times[0] - left)
        for each in readers:
            each.close()
    print(
        f"\na place free after {statistics.median(seconds) * 1000:.0f} ms at the median, worst {max(seconds) * 1000:.0f}"
    )


def test_memory(server):
    print(f"\nmemory after all that: {megabytes(server)} MB")
    assert megabytes(server) < 400


def test_start(tmp_path):
    seconds = {"absent": [], "there": []}
    for round_ in range(3):
        for name in seconds:
            home = tmp_path / f"{name}{round_}"
            home.mkdir()
            with serve(home, ROOT / "artifacts", torch=name == "there") as server:
                seconds[name].append(server.seconds)
    imported = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imported.append(time.monotonic() - began)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(
        f"\nto the first answer: torch absent {medians['absent']:.2f} s, there {medians['there']:.2f}; import torch {statistics.median(imported):.2f}"
    )
    assert medians["absent"] < 6
