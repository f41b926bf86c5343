"""Stories as a worker tells them, a step at a time: those of one draft together, those with drafts each on its own.

One run of a graph for several stories costs less than a run for each, as the weights are read once for all. The logits
are bit for bit those of each story alone, so a story does not depend on who else is listening.

Shapes: L applications of a block, B stories, H heads, T time, D head width, V vocabulary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np

from model.decoder import CHUNK, OnnxGraph, PositionInputs
from model.storyteller import Storyteller
from model.teller import DraftTeller, Teller

HEARTBEAT_SECONDS = 0.2  # between the pieces of a story with drafts at most
PIECE_SECONDS = 0.05  # an update of the page costs over a millisecond, so characters travel in groups


class Story:
    """A story that is being told: a worker writes what its teller tells, its reader waits for `pieces`."""

    def __init__(self, storyteller: Storyteller, teller: Teller | DraftTeller) -> None:
        self.storyteller, self.teller = storyteller, teller
        self.stopped = False  # by its reader
        self.error: Exception | None = None
        self._written, self._news, self._due, self._over = "", threading.Event(), 0.0, False
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """What its teller has added."""
        with self._lock:
            self._written += text
        if self.teller.over:
            self.end()
        elif self._written and time.monotonic() >= self._due:  # the first character leaves at once
            self._due = time.monotonic() + PIECE_SECONDS
            self._news.set()

    def end(self, error: Exception | None = None) -> None:
        self.error, self._over = error, True
        self._news.set()

    @property
    def over(self) -> bool:
        return self._over or self.stopped

    def pieces(self) -> Iterator[str]:
        """What was written since the last piece, about every `PIECE_SECONDS`; raises what its worker raised.

        While drafts are drawn it is nothing: whoever stops a story is noticed at its next piece.
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
    """A story of one draft, and what of it a batch has read."""

    def __init__(self, story: Story, context: int) -> None:
        self.story, self.unread = story, story.teller.unread
        self.read: list[int] = []  # the symbols that its cache holds
        self.ahead = 0  # so many of their newer half are read again already, for when the context is full
        self.overflows = len(self.unread) + story.teller.left - 1 > context

    def write(self, logits: np.ndarray) -> None:
        """The next symbol out of its logits (V,)."""
        self.story.write(self.story.teller.take(logits))
        self.unread = self.story.teller.unread


class Batch:
    """Stories of one draft and of one graph, a row each in the arrays that it reads and writes; the first are in use.

    A prompt is read in chunks, with a step of the others between them. A context that will be full has its newer half
    read again ahead of time, so that no reader waits for that.
    """

    silent = False  # each step tells something

    def __init__(self, graph: OnnxGraph, rows: int) -> None:
        config = graph.config
        self.graph, self.context, self.half = graph, config.context, config.context // 2
        self.rows: list[Row] = []
        self.cache = graph.new_cache(self.context, rows)  # (2 L, B, H, context, D)
        self.ahead = graph.new_cache(max(self.half, 1), rows)
        self.ids, self.place = np.zeros((rows, 1), np.int64), PositionInputs(self.context, rows=rows)
        self.logits = np.zeros((rows, 1, config.vocab_size), np.float32)
        # Bound once for each number of stories: nothing is allocated for a character.
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
        """A symbol more of each story whose prompt is read, and a chunk more of one that has yet to be read."""
        for place in reversed(range(len(self.rows))):
            if self.rows[place].story.over:
                self._drop(place)
        self._read_chunk()
        self._step()

    def _drop(self, place: int) -> None:
        """The last row moves to where one becomes free."""
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
            end = len(self.rows)
            for cache, length in ((self.cache, len(last.read)), (self.ahead, last.ahead)):
                cache[:, place, :, :length] = cache[:, end, :, :length]

    def _read_chunk(self) -> None:
        """Of the story with the least to be read; of none, what one will need again when its context is full."""
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
        """All rows take part; that of a story which has more to read writes where its next chunk will write again."""
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
        self.graph.session.run_with_iobinding(self.steps[n - 1])
        for place in ready:
            self.rows[place].read += self.rows[place].unread
            self.rows[place].write(self.logits[place, 0])

    def _go_back(self, place: int, row: Row) -> None:
        """The context is full: its newer half is read again, of which most was read ahead."""
        newer = row.read[self.context - self.half :] + row.unread
        self.cache[:, place, :, : row.ahead] = self.ahead[:, place, :, : row.ahead]
        row.read, row.unread, row.ahead = newer[: row.ahead], newer[row.ahead :], 0
        row.overflows = len(newer) + row.story.teller.left - 1 > self.context


class Drafting:
    """A story with several drafts, which are a batch by themselves."""

    def __init__(self, story: Story) -> None:
        self.stories, self.silent = [story], True  # until its first sentence
        self.decoder = story.storyteller.decoder_of(story.teller)

    def advance(self) -> None:
        """A symbol more of each draft, or a chunk more of what is to be read before."""
        [story] = self.stories
        text = story.teller.step(self.decoder)
        self.silent = self.silent and not text
        story.write(text)
        if story.over:
            self.stories.clear()
