"""Finds the passages of one encoded text that stand in another, by rolling hashes (Karp and Rabin, 1987)."""

from functools import lru_cache

import numpy as np

from model.vocab import Vocab
from train.text.encoded import PIECE, letter_numbers, pieces
from train.text.losses import HALF
from train.text.reading import CorpusError

PASSAGE = 64  # letters and digits of a passage
_MOST = 1_000  # passages that are looked for
_REACH = 4 * PASSAGE  # symbols in which a passage must lie
_RARE = 1 / 32  # share of the letter with which passages begin: only there is another text compared
_BASE = 0x9E3779B97F4A7C15  # of the hashes; odd, so that it has an inverse modulo 2 ** 64


def share_found(text: np.ndarray, other: np.ndarray, vocab: Vocab) -> float:
    """The share of the passages of `text` that stand in `other`, from 0 to 1, by their letters and digits.

    Both are streams of ids (N,). Case, punctuation, line ends and the bounds of stories make no difference. Of a long
    text, passages at equal distances are looked for. A text without a whole passage has a share of 0.
    """
    table = letter_numbers(vocab)

    def letters(stream: np.ndarray) -> np.ndarray:
        found = table[stream]
        return found[found > 0]

    starts = np.linspace(0, len(text), min(_MOST, 1 + len(text) // _REACH), endpoint=False, dtype=np.int64)
    passages = [letters(text[at : at + 2 * _REACH]) for at in starts.tolist()]
    shares = np.bincount(np.concatenate(passages), minlength=1) / max(1, sum(map(len, passages)))
    first = int(np.argmin(np.where(shares > 0, np.abs(shares - _RARE), np.inf)))
    hashes = [_hashes(passage, first)[:1] for passage in passages]
    sought, counts = np.unique(np.concatenate(hashes), return_counts=True)
    if not len(sought):
        return 0.0
    found, before = np.zeros(len(sought), bool), table[:0]
    for piece in pieces(other):
        ahead = np.concatenate([before, letters(piece)])
        there = _hashes(ahead, first)
        at = np.searchsorted(sought, there).clip(max=len(sought) - 1)
        found[at[sought[at] == there]] = True
        before = ahead[max(0, len(ahead) - PASSAGE + 1) :]
    return float(counts[found].sum() / counts.sum())


def require_apart(share: float, text: str, other: str) -> None:
    """Raises CorpusError if most of a text to validate on, by its `share_found`, stands in the training text too."""
    if share > HALF:
        found = f"{share:.0%} of the passages of {text} stand in {other} too"
        raise CorpusError(f"{found}: choose another text to validate on")


def _hashes(letters: np.ndarray, first: int) -> np.ndarray:
    """A hash of each passage in letters (L,) that begins with the letter `first`: uint64 (P,).

    The hash of letters x is the sum of x[k] BASE^k modulo 2 ** 64. The difference of two running sums is that of a
    passage, times the power at which it begins.
    """
    at = np.flatnonzero(letters[: max(0, len(letters) - PASSAGE + 1)] == first)
    sums = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(letters * _powers(_BASE)[: len(letters)], out=sums[1:])
    return (sums[at + PASSAGE] - sums[at]) * _powers(pow(_BASE, -1, 2**64))[at]


@lru_cache(2)
def _powers(base: int) -> np.ndarray:
    """The powers of a number modulo 2 ** 64, enough for a piece of a text and the letters before it."""
    powers = np.full(PIECE + PASSAGE, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)
