"""Decides which characters are the vocabulary of a text: ASCII, or the ones that the text itself is made of."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.vocab import LARGEST, Vocab, is_mark, normalise, repair
from train.text.reading import CorpusError

KINDS = ("auto", "text", "ascii")
LOST = 0.01  # of a text: if ASCII would lose more of it, the vocabulary is the text's own
_BATCH = 1 << 18  # characters counted at a time


@dataclass(frozen=True)
class Alphabet:
    """How to find the vocabulary of a text.

    kind: "text" takes the characters of the text itself that occur at least `min_count` times, "ascii" the printable
        ASCII ones. "auto" takes those of the text if ASCII would lose more than a hundredth of it.
    grown: the vocabulary of a trained model. It is kept, and the characters of the text that it lacks are added.
    """

    kind: str = "auto"
    min_count: int = 1
    grown: Vocab | None = None

    @property
    def counts(self) -> bool:
        """Whether the characters of the text must be counted."""
        return self.kind != "ascii" or self.grown is not None

    def described(self) -> dict[str, Any] | None:
        """What a fingerprint holds of it; None for plain ASCII."""
        grown = {"grown": self.grown.itos} if self.grown else {}
        return {"kind": self.kind, "min_count": self.min_count} | grown if self.counts else None


def vocabulary(texts: Iterable[str], alphabet: Alphabet, name: str) -> Vocab:
    """The vocabulary of composed texts. `name` is theirs in errors. Raises CorpusError if it is too large."""
    if not alphabet.counts:
        return Vocab.ascii()
    counts, repaired = _counted(texts)
    few_lost = lost_in_ascii(repaired) <= LOST * repaired.total()
    if alphabet.kind == "auto" and few_lost and not alphabet.grown:
        return Vocab.ascii()
    known = alphabet.grown.stoi if alphabet.grown else {}
    chosen = {c: n for c, n in counts.items() if n >= alphabet.min_count and c not in known}
    if not known and not chosen and counts:
        raise CorpusError(f"{name}: no character occurs {alphabet.min_count:,} times: give a lower --min-count")
    room = LARGEST - (len(known) or 1)  # 1: the end mark
    if len(chosen) > room:
        least = sorted(chosen.values())[-room - 1] + 1
        kept = sum(count >= least for count in chosen.values())
        fix = f"--min-count {least:,} keeps the {kept:,} that occur at least {least:,} times"
        raise CorpusError(
            f"{name} has {len(chosen):,} different characters{' that the model lacks' * bool(known)}, and a vocabulary "
            f"holds at most {room:,}{' more' * bool(known)}: {fix if kept else 'replace some of them in the text'}"
        )
    added = Vocab.of_counts(chosen)
    return Vocab([*known, *added.itos[:-1]]) if known else added


def lost_in_ascii(counts: Mapping[str, int]) -> int:
    """How many of the counted characters ASCII would lose: those that it drops, and letters without their accents."""
    return sum(count for character, count in counts.items() if not character.isascii() and _is_lost(character))


def _is_lost(character: str) -> bool:
    kept = normalise(character)
    letter = character.isalpha() or is_mark(character)
    return not kept or (letter and not unicodedata.normalize("NFKD", character).isascii())


def _counted(texts: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """How often each character occurs in composed texts, and how often once mojibake is repaired in them."""
    counts: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    for text in _batches(texts):
        fixed = text if text.isascii() else repair(text)
        found = _histogram(text)
        counts.update(found)
        repaired.update(found if fixed == text else _histogram(fixed))
    return counts, repaired


def _batches(texts: Iterable[str]) -> Iterator[str]:
    """The texts, joined to few long ones, because each count of a text takes a time of its own."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield "".join(batch)
            batch, size = [], 0
    yield "".join(batch)


def _histogram(text: str) -> dict[str, int]:
    """How often each character occurs in a text. `Counter` takes ten times as long."""
    counts = np.bincount(np.frombuffer(text.encode("utf-32-le"), np.uint32), minlength=1)
    found = np.flatnonzero(counts)
    return dict(zip(map(chr, found.tolist()), counts[found].tolist(), strict=True))
