"""Stories told together: each is the same as alone, and no story waits until another is complete."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import parts, random_weights

import model
from model import artifacts
from model.config import ModelConfig
from model.decoder import CHUNK, OnnxDecoder
from model.sampling import Sampling
from model.storyteller import Storyteller
from page.batches import PIECE_SECONDS, Batch, Story
from page.scheduler import DRAFTING_SECONDS, HURRY, NICE, STORIES, Scheduler, Worker, at_low_priority, grouped
from train.export.onnx_graph import build

ROOT = Path(__file__).parent.parent
LONG = ModelConfig(context=4 * CHUNK, layers=2, heads=2, width=32)  # half of the context is two chunks


@pytest.fixture(scope="module", params=["tiny_onnx", "tiny_classic_onnx", "long", "rounded"])
def storyteller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Storyteller:
    """Contexts of half a chunk and of four chunks, and weights of 32 and of 8 bits."""
    if "tiny" in request.param:
        return model.load(request.getfixturevalue(request.param))
    folder = tmp_path_factory.mktemp("batching") / request.param
    artifacts.save(folder, **parts(LONG) | {"weights": random_weights(LONG, seed=3)})
    graph = build(LONG, random_weights(LONG, seed=3), bits=8 if request.param == "rounded" else 32)
    artifacts.add_graph(folder, graph, artifacts.read(folder).hashes["model.safetensors"])
    return model.load(folder)


PROMPTS = ["", "Once upon a time", "Tom " * 40, "a", "Lily saw a bird " * 30, "The end", "x" * 63, "y" * 64, "z" * 65]


def settings(i: int, length: int) -> Sampling:
    return Sampling(length=length, temperature=[0, 0.7, 1.5][i % 3], top_k=[0, 5][i % 2], seed=i, stop_at_end=False)


def recorded(story: Story) -> list[np.ndarray]:
    """A list that collects the logits from which the story is drawn, from now on."""
    logits, take = [], story.teller.take
    story.teller.take = lambda row: (logits.append(row.copy()), take(row))[1]
    return logits


def test_logits_are_bit_for_bit_those_of_each_story_alone(storyteller: Storyteller) -> None:
    """Stories of all lengths join and leave, and some are longer than several contexts."""
    graph, batch = storyteller.open_graph(), Batch(storyteller.open_graph(), 4)
    tellers = [storyteller.teller(prompt, settings(i, 20 + 40 * i)) for i, prompt in enumerate(PROMPTS)]
    coming = [Story(storyteller, teller) for teller in tellers]
    rows = [(story, list(story.teller.unread), recorded(story)) for story in coming]
    while coming or batch.stories:
        while coming and len(batch.stories) < 4:
            batch.add(coming.pop(0))
        batch.advance()
    for story, prompt, logits in rows:
        decoder, ids = OnnxDecoder(graph), prompt
        assert len(logits) == story.teller.sampling.length
        for row, character in zip(logits, "".join(story.pieces()), strict=True):
            np.testing.assert_array_equal(row, decoder.feed(ids))
            ids = [storyteller.vocab.stoi[character]]


def test_the_same_seed_tells_the_same_story_alone_and_beside_others(storyteller: Storyteller) -> None:
    scheduler = Scheduler()
    with ThreadPoolExecutor(12) as readers:  # more than are told at once
        jobs = [(PROMPTS[i % 9], settings(i, 150)) for i in range(12)]
        told = list(readers.map(lambda job: "".join(scheduler.tell(storyteller, storyteller.teller(*job))), jobs))
    assert told == ["".join(storyteller.tell(*job)) for job in jobs]


def test_stories_of_several_models_and_of_pytorch(
    tiny_onnx: Path, tiny_classic_onnx: Path, tiny_artifact: Path
) -> None:
    scheduler, sampling = Scheduler(), Sampling(length=200, seed=2, stop_at_end=False)
    storytellers = [model.load(folder) for folder in (tiny_onnx, tiny_classic_onnx, tiny_artifact)]
    with ThreadPoolExecutor(3) as readers:
        told = list(
            readers.map(lambda each: "".join(scheduler.tell(each, each.teller("Once", sampling))), storytellers)
        )
    assert told == ["".join(each.tell("Once", sampling)) for each in storytellers]


def test_a_story_ends_where_its_model_ends_it(tiny_onnx: Path) -> None:
    storyteller = model.load(tiny_onnx)
    sampling = Sampling(length=4000, temperature=1.5, seed=1)
    told = "".join(Scheduler().tell(storyteller, storyteller.teller("", sampling)))
    assert told == "".join(storyteller.tell("", sampling)) and len(told) < 4000


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    """A scheduler whose steps are slow enough to be watched."""
    advance = Batch.advance
    monkeypatch.setattr(Batch, "advance", lambda batch: (time.sleep(0.002), advance(batch)))
    yield Scheduler()


def endless(scheduler: Scheduler, storyteller: Storyteller) -> Iterator[str]:
    return scheduler.tell(storyteller, storyteller.teller("", Sampling(length=10**6, seed=1, stop_at_end=False)))


def test_a_turn_of_a_batch_ends_with_its_time_or_its_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("page.scheduler.time", SimpleNamespace(monotonic=lambda: now))

    class Steps:
        """A batch whose steps take a quarter of a turn."""

        def __init__(self, left: int) -> None:
            self.left, self.taken = left, 0

        @property
        def stories(self) -> list[None]:
            return [None] * (self.left > 0)

        def advance(self) -> None:
            nonlocal now
            now += DRAFTING_SECONDS / 4
            self.left, self.taken = self.left - 1, self.taken + 1

    worker = Worker(Scheduler(), 2)
    long, short = Steps(100), Steps(3)
    worker.batches = {"long": long, "short": short}
    for key in ("long", "short", "long"):
        worker.advance(key, DRAFTING_SECONDS)
    assert (long.taken, short.taken) == (8, 3)
    assert list(worker.batches) == ["long"]


def test_stories_of_one_draft_get_a_turn_after_each_turn_of_drafts(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first story that has told nothing gets further turns until it has; only then all others get their next."""
    storyteller, scheduler = model.load(tiny_onnx), Scheduler()
    worker, turns = Worker(scheduler, 4), []
    drafts = [dict(seed=seed, drafts=n) for seed, n in enumerate([1, 2, 2])]
    tellers = [storyteller.teller("", Sampling(length=50, stop_at_end=False, **each)) for each in drafts]
    plain, one, other = (Story(storyteller, teller) for teller in tellers)
    names = {storyteller.open_graph(): "plain", one: "one", other: "other"}

    def advance(worker: Worker, key: object, seconds: float) -> None:
        turns.append(names[key])
        if turns.count("one") == 3:
            worker.batches[one].silent = False
        if len(turns) == 20:
            raise InterruptedError

    monkeypatch.setattr(Worker, "advance", advance)
    monkeypatch.setattr("page.scheduler.lower_priority", lambda: None)
    scheduler.workers, scheduler.waiting = [worker], [plain, one, other]
    with pytest.raises(InterruptedError):
        worker.run()
    first = ["plain", "one", "plain", "other", "plain", "one", "plain", "one", "plain"]
    second = ["plain", "one", "plain", "other", "plain", *["other", "plain"] * 3]
    assert turns == [*first, *second] and HURRY > 3


@pytest.mark.alone
def test_the_next_in_line_begins_when_any_story_leaves(scheduler: Scheduler, tiny_onnx: Path) -> None:
    storyteller = model.load(tiny_onnx)
    stories = [endless(scheduler, storyteller) for _ in range(STORIES)]
    assert all(next(story) for story in stories)
    assert [worker.running for worker in scheduler.workers] == [STORIES // 2] * 2
    with ThreadPoolExecutor(1) as late:
        try:
            for i in range(STORIES):
                stories.append(endless(scheduler, storyteller))
                begun = late.submit(next, stories[-1])
                assert wait([begun], 0.05).not_done
                stories[i].close()
                assert begun.result(1)
        finally:
            for story in stories[:-1]:
                story.close()
    stories[-1].close()
    deadline = time.monotonic() + 5
    while any(worker.running or worker.batches for worker in scheduler.workers):  # no memory is kept
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_failure_reaches_only_its_own_readers(scheduler: Scheduler, tiny_onnx: Path) -> None:
    broken, sound = model.load(tiny_onnx), model.load(tiny_onnx)
    broken.open_graph().bind = None
    with pytest.raises(TypeError):
        "".join(endless(scheduler, broken))
    assert "".join(scheduler.tell(sound, sound.teller("", Sampling(length=50, seed=1)))) == "".join(
        sound.tell("", Sampling(length=50, seed=1))
    )


def test_a_user_who_may_not_raise_priorities_can_tell(tiny_onnx: Path) -> None:
    """An ordinary user may lower a priority but never raise it: threads that start at nice 10 stay there."""
    code = f"""
import os, model
from page.scheduler import Scheduler
os.setpriority(os.PRIO_PROCESS, 0, 10)
def refuse(kind, who, nice):
    if nice < 10:
        raise PermissionError
os.setpriority = refuse
storyteller = model.load({str(tiny_onnx)!r})
teller = storyteller.teller("", model.Sampling(length=30, seed=1))
print("".join(Scheduler().tell(storyteller, teller)))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    assert run.stdout == "".join(model.load(tiny_onnx).tell("", Sampling(length=30, seed=1))) + "\n"


def test_the_first_character_is_sent_at_once_and_the_next_ones_together(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("page.batches.time", SimpleNamespace(monotonic=lambda: now))
    storyteller = model.load(tiny_onnx)
    story = Story(storyteller, storyteller.teller("", Sampling(length=10, seed=1)))
    pieces = story.pieces()
    with ThreadPoolExecutor(1) as reader:
        try:
            story.write("a")
            assert next(pieces) == "a"
            story.write("b")
            waiting = reader.submit(next, pieces)
            now += PIECE_SECONDS * 0.9
            story.write("c")
            assert wait([waiting], 0.05).not_done
            now += PIECE_SECONDS * 0.2
            story.write("d")
            assert waiting.result(1) == "bcd"
            story.write("e")
        finally:
            story.end()
    assert list(pieces) == ["e"]


@pytest.mark.alone
def test_characters_are_joined_by_time() -> None:
    def slow() -> Iterator[str]:
        for i in range(30):
            time.sleep(0.01)
            yield "ab"[i % 2]

    pieces = list(grouped(slow()))
    assert pieces[0] == "a" and "".join(pieces) == "ab" * 15
    assert 3 < len(pieces) < 9


def test_items_at_low_priority_are_computed_in_their_own_thread_and_closed() -> None:
    closed = []

    def priorities() -> Iterator[int]:
        try:
            while True:
                yield os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        finally:
            closed.append(True)

    own, items = os.getpriority(os.PRIO_PROCESS, 0), at_low_priority(priorities())
    assert next(items) == next(items) == max(NICE, own)
    items.close()
    assert closed and list(at_low_priority(each for each in "abc")) == ["a", "b", "c"]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
