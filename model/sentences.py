"""Sentences behind the beginning of a story: how they are drawn, where they end, and how good the whole is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from model.drafts import Origin

SHORTEST = 12  # symbols: a shorter text is likely by its length alone, and scored as if it were that long
STOCK = 0.2  # nats a symbol: a sentence that costs less is a stock phrase, and no better for that
REPEATS = 2.0  # what the share of words that repeat something weighs, against the mean nats of a symbol
SEQUENCE = 4  # words
WHOLE = re.compile(r"[.!?\n]\"?$")
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True)
class Beginning:
    """A story as far as it is told in one way; what is counted is of what was written, without the prompt."""

    ids: list[int]  # with the prompt's
    text: str  # with the prompt
    place: int = 0  # symbols of it that are in memory once its last is read
    unsettled: tuple[str, ...] = ()  # its last sentences, which may change
    symbols: int = 0
    nats: float = 0.0  # that they cost at temperature 1, of each sentence at least STOCK a symbol
    words: int = 0
    repeats: int = 0
    origin: Origin = (0, 0)  # behind what its last symbol is to be read
    ended: bool = False  # by the model

    @cached_property
    def said(self) -> list[str]:
        return words_of(self.text)

    @cached_property
    def sequences(self) -> set[tuple[str, ...]]:
        return set(sequences(self.said))

    @property
    def score(self) -> float:
        """How good what was written is: the mean logarithm of a symbol's probability, less for what is said twice.

        Any text is better than none.
        """
        if self.ended and self.symbols == 1:
            return -math.inf
        return -self.nats / max(self.symbols, SHORTEST) - REPEATS * self.repeats / max(self.words, 1)


@dataclass
class Draft:
    """A sentence behind a beginning, while it is drawn.

    It ends behind `.`, `!` or `?`, and behind the quotation mark that follows if a quotation is open; at the end of a
    line, if there is anything on it; with the story; or after `limit` symbols.
    """

    parent: Beginning
    limit: int
    row: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    nats: float = 0.0
    closing: bool = False  # it has ended, unless the quotation mark follows
    done: bool = False
    peeked: bool = False  # what followed was read in vain: it was no quotation mark
    ended: bool = False  # the model ended the story

    def write(self, id: int, symbol: str, nats: float) -> None:
        """The next symbol, empty for the end of the story, and what it costs."""
        if self.closing and symbol != '"':
            self.done = self.peeked = True
            return
        self.ids.append(id)
        self.text += symbol
        self.nats += nats
        self.ended = not symbol
        stop = symbol in (".", "!", "?")
        line_ends = symbol == "\n" and not self.text.isspace()
        self.done = self.ended or self.closing or line_ends or len(self.ids) == self.limit
        if stop and not self.done:
            self.closing = self.quotation_is_open
            self.done = not self.closing

    @property
    def quotation_is_open(self) -> bool:
        line = (self.parent.text + self.text).rpartition("\n")[2]
        return line.count('"') % 2 == 1

    def grown(self, read: int) -> Beginning:
        """The beginning with this draft, whose row has read that many symbols since it branched."""
        way = self.parent
        words = words_of(self.text)
        new = list(sequences([*way.said[1 - SEQUENCE :], *words]))
        again = len(new) - len(set(new) - way.sequences)  # those that the story holds, and those that come twice
        return Beginning(
            ids=way.ids + self.ids,
            text=way.text + self.text,
            place=way.place + len(self.ids),
            unsettled=(*way.unsettled, self.text),
            symbols=way.symbols + len(self.ids),
            nats=way.nats + max(self.nats, STOCK * len(self.ids)),
            words=way.words + len(words),
            repeats=way.repeats + again + echoes(self.text),
            origin=(self.row, read - self.peeked),
            ended=self.ended,
        )


def echoes(sentence: str) -> int:
    """Pairs of words and names that it says again: the cat saw the cat, Tom and Tom; a fault of weak models."""
    words = WORD.findall(sentence)
    pairs = [(a.lower(), b.lower()) for a, b in pairwise(words)]
    names = [word for word in words if word[0].isupper() and len(word) > 1]
    return sum(len(each) - len(set(each)) for each in (pairs, names))


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def sequences(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(SEQUENCE)), strict=False)
