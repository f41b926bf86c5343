"""Stories of several readers at once: a few worker threads, each of which advances its stories step by step.

Stories join and leave at any step.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from model.decoder import OnnxGraph
from model.storyteller import Storyteller
from model.teller import DraftTeller, Teller, story_pieces
from page.batches import PIECE_SECONDS, Batch, Drafting, Story

T = TypeVar("T")
STORIES = 8  # told at once; more wait
THREADS = 2  # a free Space has two cores; four stories a thread are the fastest, with eight the cache is too small
NICE = 5  # of these threads, so that requests are answered before stories go on
HURRY = 8  # steps of the story that has told nothing yet while all others have one


class Worker(threading.Thread):
    """A thread that tells up to `limit` of the scheduler's stories at once, a step of each in turn."""

    def __init__(self, scheduler: Scheduler, limit: int) -> None:
        super().__init__(name="worker", daemon=True)
        self.scheduler, self.limit = scheduler, limit
        self.batches: dict[OnnxGraph | Story, Batch | Drafting] = {}
        self.running = 0  # stories

    def run(self) -> None:
        lower_priority()
        while True:
            for story in self.scheduler.admit(self):
                try:
                    self.begin(story)
                except Exception as error:  # its reader raises it
                    story.end(error)
            for key in list(self.batches):
                self.advance(key)
            silent = next((key for key, batch in self.batches.items() if batch.silent), None)
            for _ in range(HURRY):
                if silent in self.batches:
                    self.advance(silent)
            self.running = sum(len(batch.stories) for batch in self.batches.values())

    def advance(self, key: OnnxGraph | Story) -> None:
        batch = self.batches[key]
        try:
            batch.advance()
        except Exception as error:
            for story in batch.stories:
                if not story.over:
                    story.end(error)
            del self.batches[key]
        else:
            if not batch.stories:
                del self.batches[key]  # and its memory

    def begin(self, story: Story) -> None:
        if isinstance(story.teller, DraftTeller):
            self.batches[story] = Drafting(story)
            return
        graph = story.storyteller.open_graph()
        if graph not in self.batches:
            self.batches[graph] = Batch(graph, self.limit)
        self.batches[graph].add(story)


class Scheduler:
    """The workers of a process, which start with the first story, and the stories that wait for them.

    All workers share one queue: a story that waited for one worker would go on waiting when another has room.
    """

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.waiting: list[Story] = []
        self.changed = threading.Condition()

    def tell(self, storyteller: Storyteller, teller: Teller | DraftTeller) -> Iterator[str]:
        """What `storyteller.tell` tells, in pieces of `PIECE_SECONDS`; PyTorch's run in the reader's thread.

        Closing the iterator ends the story: its place is free a step later.
        """
        if storyteller.open_graph() is None:
            with closing(story_pieces(teller, storyteller.decoder_of(teller))) as pieces:
                yield from grouped(pieces)
            return
        story = Story(storyteller, teller)
        self._submit(story)
        try:
            yield from story.pieces()
        finally:
            story.stopped = True

    def _submit(self, story: Story) -> None:
        with self.changed:
            while len(self.workers) < THREADS:
                worker = Worker(self, STORIES // THREADS)
                worker.start()
                self.workers.append(worker)
            self.waiting.append(story)
            self.changed.notify_all()

    def admit(self, worker: Worker) -> list[Story]:
        """The stories that `worker` begins now, if no other runs fewer; blocks while it has none to run."""
        admitted = []
        with self.changed:
            while True:
                while self.waiting and worker.running == min(each.running for each in self.workers) < worker.limit:
                    admitted.append(self.waiting.pop(0))
                    worker.running += 1
                if worker.running:
                    return admitted
                self.changed.wait()


def lower_priority() -> None:
    """Lowers the priority of this thread on Linux, so that requests go first. Only root could raise it again."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def at_low_priority(items: Iterator[T]) -> Iterator[T]:
    """The items, none of them None, each computed in a thread of low priority. Closing it closes `items`."""
    with closing(items), ThreadPoolExecutor(1, initializer=lower_priority) as thread:
        while (item := thread.submit(next, items, None).result()) is not None:
            yield item


def grouped(characters: Iterable[str]) -> Iterator[str]:
    """Joins characters that come within `PIECE_SECONDS` of each other; the first leaves at once."""
    piece, due = "", 0.0
    for character in characters:
        piece += character
        if time.monotonic() >= due:
            yield piece
            piece, due = "", time.monotonic() + PIECE_SECONDS
    if piece:
        yield piece
