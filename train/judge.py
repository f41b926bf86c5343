"""Compares told stories with real ones: words, variety, quotes, endings, names, and copied passages.

Every figure of told stories is reported beside the same figure of held-out stories, because alone it means little.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from model.sampling import Sampling
from model.sentences import ngrams, words_of
from model.storyteller import Storyteller
from model.teller import story_pieces
from model.writing import PLAIN_WORD, STOPS, quotation_marks, words_in

LONGEST = 2_000  # characters at most in a told story; 98 % of the training stories are shorter
SEED_LENGTH = 16  # a shorter run in common with the training text is not a copy and counts as 0
STOP = re.compile(f"[{STOPS}]")


@dataclass(frozen=True)
class Told:
    """A told story, and whether it ended with the end mark."""

    text: str
    ended: bool


def tell_many(storyteller: Storyteller, count: int, sampling: Sampling) -> list[Told]:
    """Tells `count` stories without a prompt, with the seeds 1 to `count`."""
    stories = []
    for seed in range(1, count + 1):
        teller = storyteller.teller("", replace(sampling, length=LONGEST, seed=seed))
        text = "".join(story_pieces(teller, storyteller.decoder_of(teller)))
        stories.append(Told(text, teller.ended))
    return stories


class Judge:
    """Computes the figures of stories. It reads the training text once, to compare with it."""

    def __init__(self, training: Iterable[str]) -> None:
        text = "\n\n".join(training)  # no story holds an empty line, so no run extends into the next story
        counts = Counter(plain_words(text))
        self.words = {word.lower() for word in counts}
        # a name is a word that is almost never written in lower case; a script without case has none
        self.names = {word for word, n in counts.items() if word.istitle() and n > 20 * counts[word.lower()]}
        self.ids = characters(text)
        hashes = run_hashes(self.ids)
        self.order = np.argsort(hashes)  # the positions of all runs, sorted by hash
        self.hashes = hashes[self.order]

    def figures(self, stories: Sequence[Told]) -> dict[str, Any]:
        """The figures of stories: shares from 0 to 1, and `copied_*` in characters."""
        texts = [story.text for story in stories]
        words = [word.lower() for text in texts for word in plain_words(text)]
        marks = [quotation_marks(line) for text in texts for line in text.splitlines()]
        returns = [returned for text in texts if (returned := self.name_returns(text)) is not None]
        copied = [self.copied(text) for text in texts]
        return {
            "stories": len(texts),
            "characters": round(statistics.fmean(map(len, texts))),
            "known_words": share(word in self.words for word in words),
            **{f"distinct_{n}": distinct(words, n) for n in (1, 2, 3)},
            "repeated": repeated(texts),
            "closed_quotes": share(count % 2 == 0 for count in marks if count),
            "ended": share(story.ended for story in stories),
            "name_returns": share(returns),
            "copied_median": round(statistics.median(copied)),
            "copied_worst": max(copied),
        }

    def name_returns(self, text: str) -> bool | None:
        """Whether a name of the first sentence occurs in the last third; None if that sentence has no name."""
        first = STOP.split(text, maxsplit=1)[0]
        names = self.names.intersection(plain_words(first))
        return bool(names.intersection(plain_words(text[len(text) * 2 // 3 :]))) if names else None

    def copied(self, text: str) -> int:
        """Length of the longest run of characters that also occurs in the training text."""
        ids = characters(text)
        hashes = run_hashes(ids)
        first, last = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        longest = 0
        # A copy consists of known runs only, so their number limits its length, and few positions need a comparison.
        for start, count in sorted(stretches(last > first), key=lambda stretch: -stretch[1]):
            for begin in range(start, start + count):
                if start + count - begin + SEED_LENGTH - 1 <= longest:
                    break
                places = self.order[first[begin] : last[begin]]
                longest = max(longest, self.common(places, ids[begin:], longest))
        return longest if longest >= SEED_LENGTH else 0

    def common(self, places: np.ndarray, ids: np.ndarray, longest: int) -> int:
        """How many characters of `ids` match the training text at one of `places`, if more than `longest`; else 0."""
        if longest < len(ids):  # most places already differ here
            places = places[places + longest < len(self.ids)]
            places = places[self.ids[places + longest] == ids[longest]]
        length = 0
        while length < len(ids):
            places = places[places + length < len(self.ids)]
            places = places[self.ids[places + length] == ids[length]]
            if not len(places):
                break
            length += 1
        return length


def share(truths: Iterable[bool]) -> float | None:
    """The share of values that are true; None if there are none."""
    values = list(truths)
    return round(sum(values) / len(values), 4) if values else None


def distinct(words: Sequence[str], n: int, limit: int = 10_000) -> float | None:
    """The share of different n-grams among the first `limit` ones. Without a limit, a longer text has a lower share."""
    grams = list(islice(zip(*(words[i:] for i in range(n)), strict=False), limit))
    return round(len(set(grams)) / len(grams), 4) if grams else None


def repeated(texts: Sequence[str]) -> float | None:
    """The share of sequences of four words that occurred earlier in the same story."""
    counts = [Counter(ngrams(words_of(text))) for text in texts]
    total = sum(count.total() for count in counts)
    return round(1 - sum(map(len, counts)) / total, 4) if total else None


def plain_words(text: str) -> list[str]:
    return words_in(text, PLAIN_WORD)


def characters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def run_hashes(ids: np.ndarray) -> np.ndarray:
    """A uint64 hash of every run of SEED_LENGTH characters, (N - SEED_LENGTH + 1,). Each pass doubles the length."""
    hashes, length = ids.astype(np.uint64), 1
    while length < SEED_LENGTH:
        if len(hashes) <= length:
            return hashes[:0]
        mixed = (hashes[:-length] ^ (hashes[:-length] >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
        hashes = mixed + hashes[length:]
        length *= 2
    return hashes


def stretches(hits: np.ndarray) -> list[tuple[int, int]]:
    """(start, count) of each unbroken run of True values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], hits.astype(np.int8), [0]))))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
