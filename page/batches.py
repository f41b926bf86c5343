"""Stories as a worker tells them, a step at a time. Stories of one draft share a batch; one with drafts has its own.

One run of a graph for several stories costs less than one run for each story, because it reads the weights only once.
The logits are bit for bit those of each story alone, so a story does not depend on the other stories in its batch.

Shapes: L applications of a block, B stories, H heads, T time, D head width, V vocabulary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np

from model.decoder import CHUNK
from model.graph import OnnxGraph, PositionInputs
from model.storyteller import Storyteller
from model.teller import DraftTeller, Teller

HEARTBEAT_SECONDS = 0.2  # longest time between two pieces of a story with drafts
PIECE_SECONDS = 0.05  # an update of the page costs over a millisecond, so characters are sent in groups


class Story:
    """A story that is being told: a worker writes the text of its teller, and its reader waits for `pieces`."""

    def __init__(self, storyteller: Storyteller, teller: Teller | DraftTeller) -> None:
        self.storyteller, self.teller = storyteller, teller
        self.stopped = False  # set when its reader leaves
        self.error: Exception | None = None
        self._written, self._news, self._due, self._over = "", threading.Event(), 0.0, False
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Adds text that the teller has told."""
        with self._lock:
            self._written += text
        if self.teller.over:
            self.end()
        elif self._written and time.monotonic() >= self._due:  # the first character is sent at once
            self._due = time.monotonic() + PIECE_SECONDS
            self._news.set()

    def end(self, error: Exception | None = None) -> None:
        self.error, self._over = error, True
        self._news.set()

    @property
    def over(self) -> bool:
        return self._over or self.stopped

    def pieces(self) -> Iterator[str]:
        """Yields what was written since the last piece, about every `PIECE_SECONDS`; raises what the worker raised.

        While a worker draws drafts, the pieces are empty. They are sent all the same, because Gradio stops a story only
        when its next piece comes.
        """
        over, drafts = False, isinstance(self.teller, DraftTeller)
        while not over:
            self._news.wait(HEARTBEAT_SECONDS if drafts else None)
            self._news.clear()
            over = self._over
            with self._lock:
                piece, self._written = self._written, ""
            if piece or drafts:
                yield piece
        if self.error is not None:
            raise self.error


class Row:
    """A story of one draft, and which of its symbols a batch has read."""

    def __init__(self, story: Story, context: int) -> None:
        self.story, self.unread = story, story.teller.unread
        self.read: list[int] = []  # the symbols that its cache holds
        self.ahead = 0  # symbols of the newer half that were read again in advance, for when the context is full
        self.overflows = len(self.unread) + story.teller.left - 1 > context

    def write(self, logits: np.ndarray) -> None:
        """Picks the next symbol from its logits (V,), and writes the text that follows from it."""
        self.story.write(self.story.teller.take(logits))
        self.unread = self.story.teller.unread


class Batch:
    """Stories of one draft and of one graph. Each has a row in the arrays; the first `len(rows)` rows are in use.

    A batch reads a prompt in chunks, and advances the other stories by a step between two chunks. Where a context will
    become full, the batch reads its newer half again in advance, so that no reader waits for that.
    """

    def __init__(self, graph: OnnxGraph, rows: int) -> None:
        config = graph.config
        self.graph, self.context, self.half = graph, config.context, config.context // 2
        self.rows: list[Row] = []
        self.cache = graph.new_cache(self.context, rows)  # (2 L, B, H, context, D)
        self.ahead = graph.new_cache(max(self.half, 1), rows)
        self.ids, self.place = np.zeros((rows, 1), np.int64), PositionInputs(self.context, rows=rows)
        self.logits = np.zeros((rows, 1, config.vocab_size), np.float32)
        # Bound once for each number of stories, so that a step allocates nothing.
        self.steps = [
            graph.bind(self.ids[:n], self.place.first_rows(n), self.cache[:, :n], self.logits[:n])
            for n in range(1, rows + 1)
        ]

    @property
    def stories(self) -> list[Story]:
        return [row.story for row in self.rows]

    def add(self, story: Story) -> None:
        self.rows.append(Row(story, self.context))

    def advance(self) -> None:
        """Adds a symbol to each story whose prompt has been read, and reads a chunk of one other story."""
        for place in reversed(range(len(self.rows))):
            if self.rows[place].story.over:
                self._drop(place)
        self._read_chunk()
        self._step()

    def _drop(self, place: int) -> None:
        """Removes the row at `place`, and moves the last row there."""
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
            end = len(self.rows)
            for cache, length in ((self.cache, len(last.read)), (self.ahead, last.ahead)):
                cache[:, place, :, :length] = cache[:, end, :, :length]

    def _read_chunk(self) -> None:
        """Reads a chunk of the prompt that has the least left to read.

        Without such a prompt, reads in advance what a story will read again when its context is full.
        """
        waiting = [place for place, row in enumerate(self.rows) if len(row.unread) > 1]
        if waiting:
            place = min(waiting, key=lambda place: len(self.rows[place].unread))
            row = self.rows[place]
            chunk, row.unread = row.unread[:CHUNK], row.unread[CHUNK:]
            row.read += chunk
            logits = self.graph.read(chunk, len(row.read), self.cache[:, place : place + 1])
            if not row.unread:
                row.write(logits[-1])
            return
        for place, row in enumerate(self.rows):
            newer = row.read[self.context - self.half + row.ahead :] if row.overflows else []
            if len(newer) >= CHUNK:
                row.ahead += CHUNK
                self.graph.read(newer[:CHUNK], row.ahead, self.ahead[:, place : place + 1])
                return

    def _step(self) -> None:
        """Runs the graph for all rows.

        A row that still has a prompt to read takes part too: what it writes, its next chunk overwrites.
        """
        for place, row in enumerate(self.rows):
            if len(row.read) == self.context and not row.story.over:
                self._go_back(place, row)
        ready = [place for place, row in enumerate(self.rows) if len(row.unread) == 1 and not row.story.over]
        if not ready:
            return
        n = len(self.rows)
        for place, row in enumerate(self.rows):
            self.ids[place, 0] = row.unread[0] if row.unread else 0
            self.place.last[place] = min(len(row.read), self.context - 1)
        self.place.positions[:, 0] = self.place.last
        self.steps[n - 1]()
        for place in ready:
            self.rows[place].read += self.rows[place].unread
            self.rows[place].write(self.logits[place, 0])

    def _go_back(self, place: int, row: Row) -> None:
        """The context is full: starts again with its newer half, most of which was read in advance."""
        newer = row.read[self.context - self.half :] + row.unread
        self.cache[:, place, :, : row.ahead] = self.ahead[:, place, :, : row.ahead]
        row.read, row.unread, row.ahead = newer[: row.ahead], newer[row.ahead :], 0
        row.overflows = len(newer) + row.story.teller.left - 1 > self.context


class Drafting:
    """A story with several drafts, which form a batch of their own."""

    def __init__(self, story: Story) -> None:
        self.stories, self.silent = [story], True  # silent until its first sentence
        self.decoder = story.storyteller.decoder_of(story.teller)

    def advance(self) -> None:
        """Adds a symbol to each draft, or reads a chunk of the text before them."""
        [story] = self.stories
        text = story.teller.step(self.decoder)
        self.silent = self.silent and not text
        story.write(text)
        if story.over:
            self.stories.clear()
