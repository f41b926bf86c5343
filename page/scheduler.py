"""Stories of several readers at once: a few worker threads, each of which advances a batch of stories step by step.

One run of a graph for a batch costs less than a run for each story, as the weights are read once for all. Stories join
and leave a batch at any step. The logits are bit for bit those of each story alone, so a story does not depend on who
else is listening.

Shapes: L applications of a block, B stories, H heads, T time, D head width, V vocabulary.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np

from model.decoder import CHUNK, OnnxGraph, Place
from model.sampling import Sampling, pick
from model.storyteller import Storyteller, allowed

STORIES = 8  # told at once; more wait
THREADS = 2  # a free Space has two cores; four stories a thread are the fastest, with eight the cache is too small
NICE = 5  # of these threads, so that requests are answered before stories go on
PIECE_SECONDS = 0.05  # an update of the page costs over a millisecond, so characters travel in groups


class Story:
    """A story that is being told: a worker writes it, its reader waits for `pieces`."""

    def __init__(self, storyteller: Storyteller, graph: OnnxGraph, prompt: str, sampling: Sampling) -> None:
        self.graph, self.vocab, self.sampling = graph, storyteller.vocab, sampling
        self.generator = np.random.default_rng(sampling.seed)
        self.unread = storyteller.prepare(prompt).ids
        self.read: list[int] = []  # the symbols that its cache holds
        self.ahead = 0  # so many of their newer half are read again already, for when the context is full
        self.overflows = len(self.unread) + sampling.length - 1 > graph.config.context
        self.left = sampling.length
        self.stopped = False  # by its reader
        self.error: Exception | None = None
        self._written, self._news, self._due, self._over = "", threading.Event(), 0.0, False
        self._lock = threading.Lock()

    def write(self, logits: np.ndarray) -> None:
        """Draws the next symbol out of its logits (V,)."""
        chosen = pick(allowed(logits, self.vocab, self.sampling), self.sampling, self.generator)
        if chosen == self.vocab.end:
            return self.end()
        self.left -= 1
        self.unread = [chosen]
        with self._lock:
            self._written += self.vocab.itos[chosen]
        if not self.left:
            self.end()
        elif time.monotonic() >= self._due:  # the first character leaves at once
            self._due = time.monotonic() + PIECE_SECONDS
            self._news.set()

    def end(self, error: Exception | None = None) -> None:
        self.error, self._over = error, True
        self._news.set()

    @property
    def over(self) -> bool:
        return self._over or self.stopped

    def pieces(self) -> Iterator[str]:
        """What was written since the last piece, about every `PIECE_SECONDS`; raises what its worker raised."""
        over = False
        while not over:
            self._news.wait()
            self._news.clear()
            over = self._over
            with self._lock:
                piece, self._written = self._written, ""
            if piece:
                yield piece
        if self.error is not None:
            raise self.error


class Batch:
    """Stories of one graph, a row each in the arrays that it reads and writes; the first rows are those in use.

    A prompt is read in chunks, with a step of the others between them. A context that will be full has its newer half
    read again ahead of time, so that no reader waits for that.
    """

    def __init__(self, graph: OnnxGraph, rows: int) -> None:
        config = graph.config
        self.graph, self.context, self.half = graph, config.context, config.context // 2
        self.stories: list[Story] = []
        self.cache = graph.new_cache(self.context, rows)  # (2 L, B, H, context, D)
        self.ahead = graph.new_cache(max(self.half, 1), rows)
        self.ids, self.place = np.zeros((rows, 1), np.int64), Place(rows=rows)
        self.logits = np.zeros((rows, 1, config.vocab_size), np.float32)
        # Bound once for each number of stories: nothing is allocated for a character.
        self.steps = [
            graph.bind(self.ids[:n], self.place.first(n), self.cache[:, :n], self.logits[:n])
            for n in range(1, rows + 1)
        ]

    def advance(self) -> None:
        """A symbol more of each story whose prompt is read, and a chunk more of one that has yet to be read."""
        for row in reversed(range(len(self.stories))):
            if self.stories[row].over:
                self._drop(row)
        self._read_chunk()
        self._step()

    def _drop(self, row: int) -> None:
        """The last row moves to where one becomes free."""
        last = self.stories.pop()
        if row < len(self.stories):
            self.stories[row] = last
            end = len(self.stories)
            for cache, length in ((self.cache, len(last.read)), (self.ahead, last.ahead)):
                cache[:, row, :, :length] = cache[:, end, :, :length]

    def _read_chunk(self) -> None:
        """Of the story with the least to be read; of none, what one will need again when its context is full."""
        waiting = [row for row, story in enumerate(self.stories) if len(story.unread) > 1]
        if waiting:
            row = min(waiting, key=lambda row: len(self.stories[row].unread))
            story = self.stories[row]
            chunk, story.unread = story.unread[:CHUNK], story.unread[CHUNK:]
            story.read += chunk
            logits = self.graph.read(chunk, Place(len(story.read)), self.cache[:, row : row + 1])
            if not story.unread:
                story.write(logits[-1])
            return
        for row, story in enumerate(self.stories):
            newer = story.read[self.context - self.half + story.ahead :] if story.overflows else []
            if len(newer) >= CHUNK:
                story.ahead += CHUNK
                self.graph.read(newer[:CHUNK], Place(story.ahead), self.ahead[:, row : row + 1])
                return

    def _step(self) -> None:
        """All rows take part; that of a story which has more to read writes where its next chunk will write again."""
        for row, story in enumerate(self.stories):
            if len(story.read) == self.context and not story.over:
                self._go_back(row, story)
        ready = [row for row, story in enumerate(self.stories) if len(story.unread) == 1 and not story.over]
        if not ready:
            return
        n = len(self.stories)
        for row, story in enumerate(self.stories):
            self.ids[row, 0] = story.unread[0] if story.unread else 0
            self.place.last[row] = min(len(story.read), self.context - 1)
        self.place.total[()] = self.place.last[:n].max() + 1
        self.graph.session.run_with_iobinding(self.steps[n - 1])
        for row in ready:
            self.stories[row].read += self.stories[row].unread
            self.stories[row].write(self.logits[row, 0])

    def _go_back(self, row: int, story: Story) -> None:
        """The context is full: its newer half is read again, of which most was read ahead."""
        newer = story.read[self.context - self.half :] + story.unread
        self.cache[:, row, :, : story.ahead] = self.ahead[:, row, :, : story.ahead]
        story.read, story.unread, story.ahead = newer[: story.ahead], newer[story.ahead :], 0
        story.overflows = len(newer) + story.left - 1 > self.context


class Worker(threading.Thread):
    """A thread that tells up to `limit` of the scheduler's stories at once, in a batch for each model."""

    def __init__(self, scheduler: Scheduler, limit: int) -> None:
        super().__init__(name="worker", daemon=True)
        self.scheduler, self.limit = scheduler, limit
        self.batches: dict[OnnxGraph, Batch] = {}
        self.running = 0  # stories

    def run(self) -> None:
        if sys.platform == "linux":  # where threads have priorities, which only root may raise again
            os.setpriority(os.PRIO_PROCESS, self.native_id, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        while True:
            for story in self.scheduler.admit(self):
                try:
                    if story.graph not in self.batches:
                        self.batches[story.graph] = Batch(story.graph, self.limit)
                    self.batches[story.graph].stories.append(story)
                except Exception as error:  # its reader raises it
                    story.end(error)
            for graph, batch in list(self.batches.items()):
                try:
                    batch.advance()
                except Exception as error:
                    for story in batch.stories:
                        if not story.over:
                            story.end(error)
                    batch.stories.clear()
                if not batch.stories:
                    del self.batches[graph]  # and its memory
            self.running = sum(len(batch.stories) for batch in self.batches.values())


class Scheduler:
    """The workers of a process, which start with the first story, and the stories that wait for them.

    All workers share one queue: a story that waited for one worker would go on waiting when another has room.
    """

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.waiting: list[Story] = []
        self.changed = threading.Condition()

    def tell(self, storyteller: Storyteller, prompt: str, sampling: Sampling) -> Iterator[str]:
        """What `storyteller.tell` tells, in pieces of `PIECE_SECONDS`; PyTorch's run in the reader's thread.

        Closing the iterator ends the story: its place is free a step later.
        """
        graph = storyteller.open_graph()
        if graph is None:
            with closing(storyteller.tell(prompt, sampling)) as characters:
                yield from grouped(characters)
            return
        story = Story(storyteller, graph, prompt, sampling)
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
