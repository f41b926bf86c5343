"""Drafts of sentences and beams, the beginnings they continue: where a sentence ends, and how a beam is scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from model.drafts import Origin
from model.writing import CLOSING, QUOTES, STOPS, quotation_marks, words_in

MIN_SYMBOLS = 12  # a shorter text is likely only because it is short: it is scored as if it had this length
MIN_NATS = 0.2  # nats per symbol: a sentence that costs less is a stock phrase, and is scored as if it cost this
REPEAT_WEIGHT = 2.0  # weight in the score: nats per symbol for each repeat per word
NGRAM = 4  # words in a row that count as a repeat if they come again


@dataclass(frozen=True)
class Beam:
    """One beginning of a story. The counts are those of the text that the model wrote, without the prompt."""

    ids: list[int]  # including the prompt's
    text: str  # including the prompt
    cached: int = 0  # how many of its symbols are in the cache once the last one is read
    unsettled: tuple[str, ...] = ()  # its last sentences, which may still change
    symbols: int = 0
    nats: float = 0.0  # the cost of the symbols at temperature 1; for each sentence at least MIN_NATS per symbol
    words: int = 0
    repeats: int = 0
    origin: Origin = (0, 0)  # where its row branches off; its last symbol is read after that
    ended: bool = False  # the model ended the story

    @cached_property
    def all_words(self) -> list[str]:
        return words_of(self.text)

    @cached_property
    def ngrams(self) -> set[tuple[str, ...]]:
        return set(ngrams(self.all_words))

    @property
    def score(self) -> float:
        """The score of the written text: the mean log probability of a symbol, minus a penalty for repeats.

        An empty story has the lowest score.
        """
        if self.ended and self.symbols == 1:
            return -math.inf
        return -self.nats / max(self.symbols, MIN_SYMBOLS) - REPEAT_WEIGHT * self.repeats / max(self.words, 1)


@dataclass
class Draft:
    """A sentence that continues a beam, while it is drawn.

    It ends after `.`, `!`, `?` or what ends a sentence in its script; if a quotation is open, a quotation mark that
    follows belongs to it. It also ends at the end of a line that is not empty, at the end of the story, and after
    `limit` symbols.
    """

    parent: Beam
    limit: int
    row: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    nats: float = 0.0
    closing: bool = False  # it has ended, but a quotation mark may still follow
    done: bool = False
    read_ahead: bool = False  # one more symbol was drawn and is not part of it: it was no quotation mark
    ended: bool = False  # the model ended the story

    def write(self, id: int, symbol: str, nats: float) -> None:
        """Adds the next symbol, with its cost in nats. The symbol is empty at the end of the story."""
        if self.closing and symbol not in CLOSING:
            self.done = self.read_ahead = True
            return
        self.ids.append(id)
        self.text += symbol
        self.nats += nats
        self.ended = not symbol
        stop = not self.ended and symbol in STOPS
        line_ends = symbol == "\n" and not self.text.isspace()
        closed = self.closing and symbol in QUOTES
        self.done = self.ended or closed or line_ends or len(self.ids) == self.limit
        if stop and not self.done:
            self.closing = self.quotation_is_open
            self.done = not self.closing

    @property
    def quotation_is_open(self) -> bool:
        line = (self.parent.text + self.text).rpartition("\n")[2]
        return quotation_marks(line) % 2 == 1

    def extended(self, read: int) -> Beam:
        """Returns the beam, continued by this draft, whose row has read `read` symbols since the last branch."""
        beam = self.parent
        words = words_of(self.text)
        new = list(ngrams([*beam.all_words[1 - NGRAM :], *words]))
        # those that the story has already, and those that come twice in the draft
        repeats = len(new) - len(set(new) - beam.ngrams)
        return Beam(
            ids=beam.ids + self.ids,
            text=beam.text + self.text,
            cached=beam.cached + len(self.ids),
            unsettled=(*beam.unsettled, self.text),
            symbols=beam.symbols + len(self.ids),
            nats=beam.nats + max(self.nats, MIN_NATS * len(self.ids)),
            words=beam.words + len(words),
            repeats=beam.repeats + repeats + repeated_pairs(self.text),
            origin=(self.row, read - self.read_ahead),
            ended=self.ended,
        )


def repeated_pairs(sentence: str) -> int:
    """Counts the word pairs and names that a sentence repeats, a fault of weak models.

    Examples: "the cat saw the cat" (a word pair), "Tom and Tom" (a name).
    """
    words = words_in(sentence)
    pairs = [(a.lower(), b.lower()) for a, b in pairwise(words)]
    names = [word for word in words if word[0].isupper() and len(word) > 1]
    return sum(len(each) - len(set(each)) for each in (pairs, names))


def words_of(text: str) -> list[str]:
    return words_in(text.lower())


def ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(NGRAM)), strict=False)
