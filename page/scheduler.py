"""Tells the stories of several readers at once: a few worker threads, each of which advances its stories step by step.

A story can join between two turns, and leave at any step.
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

from model.graph import OnnxGraph
from model.storyteller import Storyteller
from model.teller import DraftTeller, Teller, story_pieces
from page.batches import PIECE_SECONDS, Batch, Drafting, Story

T = TypeVar("T")
STORIES = 8  # told at the same time; further ones wait
THREADS = 2  # a free Space has two cores; four stories per thread are fastest, and eight are too many for the CPU cache
NICE = 5  # niceness of these threads, so that the server answers requests before stories go on
# A story with drafts has megabytes of memory, which must come back into the processor's cache at each turn.
DRAFTING_SECONDS = 0.008  # the turn of a story with drafts
PLAIN_SECONDS = 0.001  # the turn of all stories of one draft, after each turn of drafts: these stories come evenly
HURRY = 8  # extra turns, per turn of the others, for a story that has told nothing yet


class Worker(threading.Thread):
    """A thread that tells up to `limit` of the scheduler's stories at once. Their batches take turns."""

    def __init__(self, scheduler: Scheduler, limit: int) -> None:
        super().__init__(name="worker", daemon=True)
        self.scheduler, self.limit = scheduler, limit
        self.batches: dict[OnnxGraph | Story, Batch | Drafting] = {}
        self.running = 0  # how many stories

    def run(self) -> None:
        lower_priority()
        while True:
            self.tell_plain()
            drafting = [key for key, batch in self.batches.items() if isinstance(batch, Drafting)]
            silent = next((key for key in drafting if self.batches[key].silent), None)
            for key in drafting:
                self.advance(key, DRAFTING_SECONDS)
                self.tell_plain()
            for _ in range(HURRY):
                if silent in self.batches and self.batches[silent].silent:
                    self.advance(silent, DRAFTING_SECONDS)
                    self.tell_plain()

    def tell_plain(self) -> None:
        """Begins the stories that wait, and gives those of one draft a turn. Blocks while there is nothing to tell."""
        self.running = sum(len(batch.stories) for batch in self.batches.values())
        for story in self.scheduler.admit(self):
            try:
                self.begin(story)
            except Exception as error:  # raised again in the reader's thread
                story.end(error)
        for key in [key for key, batch in self.batches.items() if isinstance(batch, Batch)]:
            self.advance(key, PLAIN_SECONDS)

    def advance(self, key: OnnxGraph | Story, seconds: float) -> None:
        """A turn of a batch: as many steps as fit into these seconds, unless its stories end before."""
        batch, end = self.batches[key], time.monotonic() + seconds
        try:
            while batch.stories and time.monotonic() < end:
                batch.advance()
        except Exception as error:
            for story in batch.stories:
                if not story.over:
                    story.end(error)
            del self.batches[key]
        else:
            if not batch.stories:
                del self.batches[key]  # frees its memory

    def begin(self, story: Story) -> None:
        if isinstance(story.teller, DraftTeller):
            self.batches[story] = Drafting(story)
            return
        graph = story.storyteller.open_graph()
        if graph not in self.batches:
            self.batches[graph] = Batch(graph, self.limit)
        self.batches[graph].add(story)


class Scheduler:
    """The workers of a process, which start with the first story, and the stories that wait for a worker.

    All workers share one queue. With a queue for each worker, a story could wait while another worker has room.
    """

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.waiting: list[Story] = []
        self.changed = threading.Condition()

    def tell(self, storyteller: Storyteller, teller: Teller | DraftTeller) -> Iterator[str]:
        """Yields what `storyteller.tell` tells, in pieces of `PIECE_SECONDS`. PyTorch decodes in the reader's thread.

        Closing the iterator ends the story, and frees its place after the current turn.
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
        """The stories that `worker` begins now: none while another runs fewer. Blocks while it has nothing to run."""
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
    """Lowers the priority of this thread on Linux, so that requests come first. Only root could raise it again."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def at_low_priority(items: Iterator[T]) -> Iterator[T]:
    """Yields `items`, each computed in a thread of low priority. No item may be None. Closing this closes `items`."""
    with closing(items), ThreadPoolExecutor(1, initializer=lower_priority) as thread:
        while (item := thread.submit(next, items, None).result()) is not None:
            yield item


def grouped(characters: Iterable[str]) -> Iterator[str]:
    """Joins the characters of each `PIECE_SECONDS` into one piece. The first character is sent at once, alone."""
    piece, due = "", 0.0
    for character in characters:
        piece += character
        if time.monotonic() >= due:
            yield piece
            piece, due = "", time.monotonic() + PIECE_SECONDS
    if piece:
        yield piece
