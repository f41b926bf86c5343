"""An encoded text, taken apart in pieces: what is made beside the text stays small, however long it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from model.vocab import Vocab

PIECE = 1 << 17  # symbols looked at together: the int64 that np.bincount makes of each then stay in the cache


def counts(stream: np.ndarray, symbols: int) -> np.ndarray:
    """How often each id of 0 to symbols - 1 occurs in a stream (N,): int64 (symbols,)."""
    pieces = (np.bincount(piece, minlength=symbols) for piece in _pieces(stream))
    return sum(pieces, np.zeros(symbols, np.int64))


def marks(stream: np.ndarray, vocab: Vocab, most: int | None = None) -> np.ndarray:
    """The positions of the end marks in a stream (N,): int64 (M,), empty where the vocabulary has none.

    With `most` at least so many of them, if there are, and no more of the stream is read than holds those.
    """
    found, count = [np.empty(0, np.int64)], 0
    for number, piece in enumerate(_pieces(stream) if vocab.end is not None else ()):
        found.append(np.flatnonzero(piece == vocab.end) + number * PIECE)
        count += len(found[-1])
        if most is not None and count >= most:
            break
    return np.concatenate(found)


def stories_in(stream: np.ndarray, vocab: Vocab, first: int | None = None) -> list[np.ndarray]:
    """The sequences to score in a stream: from end mark to end mark, both included; without marks all of it, opened.

    With `first` only so many of them.
    """
    stream = np.asarray(stream)  # a view of a memmap costs several times as much
    if vocab.end is None:
        return [np.concatenate([np.array([vocab.start], stream.dtype), stream])][:first]
    at = marks(stream, vocab, None if first is None else first + 1)
    return [stream[a : b + 1] for a, b in pairwise(at.tolist())][:first]


def keep_apart(stream: np.ndarray, vocab: Vocab, every: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A stream of stories in two: what to train on, without every so many-th story, and those alone to watch.

    What to train on is views of the stream: joined they go from end mark to end mark, as what is watched does. Raises
    ValueError where there are fewer stories than `every`.
    """
    stream = np.asarray(stream)
    at = marks(stream, vocab)
    if len(at) - 1 < every:
        raise ValueError(f"apart ({every}) must be at most {max(0, len(at) - 1)}, the number of training stories")
    # story k, counted from 1, goes from mark k - 1 up to mark k, which opens the next one
    starts, stops = at[every - 1 : -1 : every], at[every::every]
    training = [stream[a:b] for a, b in zip([0, *stops], [*starts, len(stream)], strict=True)]
    watched = [stream[a:b] for a, b in zip(starts, stops, strict=True)]
    return training, np.concatenate([*watched, stream[-1:]])


def _pieces(stream: np.ndarray) -> Iterator[np.ndarray]:
    stream = np.asarray(stream)
    return (stream[at : at + PIECE] for at in range(0, len(stream), PIECE))
