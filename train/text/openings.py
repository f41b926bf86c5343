"""The prompts that a page offers for a model: those of a corpus, or how the stories of its text often begin."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from model.vocab import Vocab
from model.writing import MARK, NO_BLANKS, QUOTES, STOPS, kind
from train.text.corpus import Corpus
from train.text.encoded import stories_in

# Prompts in the style of a corpus. The page offers them, and the card tells a story from the first one.
PROMPTS = {
    "shakespeare": ("ROMEO:", "JULIET:\nO gentle night,", "KING RICHARD III:\n", "First Citizen:\nBefore we proceed"),
    "panchatantra": (
        "Once upon a time there was a lion who",
        "In a certain forest there lived a jackal",
        "The crane said to the crab,",
        "There was once a king of Benares",
    ),
}
COUNT = 4
LONGEST, START = 40, 5  # characters
READ_STORIES, READ_SYMBOLS = 4_000, 1 << 18  # of the stories, or of a single text
_SENTENCE = re.compile(rf"\n|(?<=[{STOPS}])")


def prompts(data: str, text: Corpus, spoken: str | None) -> dict[str, list[str]]:
    """What metrics.json says of prompts: the corpus's own, or openings of a text for which the page has no examples."""
    found = PROMPTS.get(data) or ([] if spoken == "en" and text.vocab.is_ascii else openings(text.train, text.vocab))
    return {"prompts": list(found)} if found else {}


def openings(stream: np.ndarray, vocab: Vocab) -> list[str]:
    """At most four openings of the stories in an encoded text (N,), or of the sentences in a text without stories.

    They are whole words on one line, 40 characters at most, and none is the beginning of another. Those that a
    hundredth of the stories share come first, each as long as it can be. Of these, the most frequent and the longest
    come first, but one of each `START` before a second.
    """
    stories = [stream] if vocab.end is None else stories_in(stream, vocab, READ_STORIES)
    if len(stories) >= COUNT:
        texts = [vocab.decode(story[: LONGEST + 3].tolist()) for story in stories]
    else:
        texts = _SENTENCE.split("\n".join(vocab.decode(story[:READ_SYMBOLS].tolist()) for story in stories))
        texts = [text.lstrip(QUOTES) for text in texts]  # they close the sentence before
    counts = Counter(opening for text in texts for opening in _openings(text.strip()))
    chosen: list[str] = []
    for least in (max(2, len(texts) // 100), 2, 1):
        frequent = {opening for opening, count in counts.items() if count >= least}
        shorter = {part for opening in frequent for part in _openings(opening) if part != opening}
        starts = Counter(opening[:START] for opening in chosen)
        turns = []
        for opening in sorted(frequent - shorter, key=lambda it: (-counts[it] * len(it), it)):
            turns.append((starts[opening[:START]], len(turns), opening))
            starts[opening[:START]] += 1
        for *_, opening in sorted(turns):
            if not any(opening.startswith(other) or other.startswith(opening) for other in chosen):
                chosen.append(opening)
    return chosen[:COUNT]


def _openings(text: str) -> Iterator[str]:
    """The beginnings of the first line of a text that end where a word ends."""
    line = text.split("\n", 1)[0]
    for end in range(1, min(len(line), LONGEST) + 1):
        if line[:end].rstrip() == line[:end] and (end == len(line) or _parts(line[end])):
            yield line[:end]


def _parts(character: str) -> bool:
    """Whether a word can end before this character."""
    seen = kind(character)
    return seen == NO_BLANKS or not (seen.isalnum() or seen in f"'{MARK}")
