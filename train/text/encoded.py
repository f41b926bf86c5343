"""Encodes a text; counts and splits an encoded one piece by piece, so that memory use stays small for any length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from model.vocab import END, Vocab, is_accent, is_mark, normalise

PIECE = 1 << 17  # symbols in a piece: np.bincount makes an int64 of each, and these still fit in the CPU cache


def id_type(vocab: Vocab) -> type[np.uint8 | np.uint16]:
    """The type of the ids of an encoded text: one byte each, or two in a vocabulary of more than 256 symbols."""
    return np.uint8 if len(vocab) <= 256 else np.uint16


def letter_numbers(vocab: Vocab) -> np.ndarray:
    """For each symbol the number of its letter, digit or vowel sign from 1, without case; 0 for others: uint16 (V,)."""
    letters = [symbol.casefold() if symbol != END and _is_letter(symbol) else "" for symbol in vocab.itos]
    numbers = {"": 0} | {letter: i for i, letter in enumerate(dict.fromkeys(filter(None, letters)), 1)}
    return np.array([numbers[letter] for letter in letters], np.uint16)


def _is_letter(character: str) -> bool:
    return character.isalnum() or (is_mark(character) and not is_accent(character))


def story_digests(vocab: Vocab) -> Callable[[str, bytes], int]:
    """A function from a clean story and its ids to a 64-bit digest of its letters, digits and vowel signs.

    Case, punctuation and what `normalise` makes ASCII of make no difference: the digest of a story is the same in every
    vocabulary that has its letters. Of a story without any, the story itself is digested.
    """
    letters = _letters(vocab)

    def digest(story: str, ids: bytes) -> int:
        return int.from_bytes(blake2b(letters(ids) or story.encode(), digest_size=8).digest())

    return digest


def _letters(vocab: Vocab) -> Callable[[bytes], bytes]:
    """A function from ids to the letters, digits and vowel signs of their text, in UTF-8."""
    plain = ["" if symbol == END else (normalise(symbol) or symbol).casefold() for symbol in vocab.itos]
    folded = ["".join(filter(_is_letter, symbol)) for symbol in plain]
    if vocab.is_ascii:
        table = "".join(symbol or "\0" for symbol in folded).encode().ljust(256, b"\0")
        others = bytes(i for i, symbol in enumerate(folded) if not symbol)
        return lambda ids: ids.translate(table, others)
    codes = np.zeros((len(vocab), max(1, *map(len, folded))), np.uint32)  # (V, letters of a symbol: ß is ss)
    for i, symbol in enumerate(folded):
        codes[i, : len(symbol)] = list(map(ord, symbol))

    def letters(ids: bytes) -> bytes:
        found = codes[np.frombuffer(ids, id_type(vocab))].ravel()
        return found[found > 0].tobytes().decode("utf-32-le").encode()

    return letters


def end_mark(vocab: Vocab) -> bytes:
    """The end mark in an encoded text; b"" if the vocabulary has none."""
    return b"" if vocab.end is None else id_type(vocab)(vocab.end).tobytes()


def encoder(vocab: Vocab) -> Callable[[str], bytes]:
    """A function from a clean text, of characters of the vocabulary, to its ids as bytes."""
    codes = {ord(symbol): i for symbol, i in vocab.stoi.items() if symbol != END}
    table = np.zeros(1 + max([*codes, 255]), id_type(vocab))
    table[list(codes)] = list(codes.values())
    if vocab.is_ascii:
        narrow = bytes(table)
        return lambda text: text.encode("ascii").translate(narrow)
    return lambda text: table[np.frombuffer(text.encode("utf-32-le"), np.uint32)].tobytes()


def symbol_counts(stream: np.ndarray, symbols: int) -> np.ndarray:
    """How often each id from 0 to symbols - 1 occurs in a stream (N,): int64 (symbols,)."""
    counts = (np.bincount(piece, minlength=symbols) for piece in pieces(stream))
    return sum(counts, np.zeros(symbols, np.int64))


def end_positions(stream: np.ndarray, vocab: Vocab, limit: int | None = None) -> np.ndarray:
    """The positions of the end marks in a stream (N,): int64 (M,), empty if the vocabulary has no end mark.

    With `limit`, reading stops after the piece in which that many were found. The result may then hold a few more.
    """
    found, count = [np.empty(0, np.int64)], 0
    for number, piece in enumerate(pieces(stream) if vocab.end is not None else ()):
        found.append(np.flatnonzero(piece == vocab.end) + number * PIECE)
        count += len(found[-1])
        if limit is not None and count >= limit:
            break
    return np.concatenate(found)


def stories_in(stream: np.ndarray, vocab: Vocab, first: int | None = None) -> list[np.ndarray]:
    """The sequences to score in a stream: each story from end mark to end mark, both included.

    If the vocabulary has no end mark, the whole stream is one sequence that begins with `vocab.start`. With `first`,
    only that many sequences are returned.
    """
    stream = np.asarray(stream)  # slicing a memmap takes several times as long
    if vocab.end is None:
        return [np.concatenate([np.array([vocab.start], stream.dtype), stream])][:first]
    at = end_positions(stream, vocab, None if first is None else first + 1)
    return [stream[a : b + 1] for a, b in pairwise(at.tolist())][:first]


def split_every_nth(stream: np.ndarray, vocab: Vocab, every: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Splits a stream of stories: every N-th story is held out, and the rest is the training text. N is `every`.

    The training text is a list of views of the stream. Joined, they begin and end with an end mark, as the held-out
    stream does. Raises ValueError if there are fewer than N stories.
    """
    stream = np.asarray(stream)
    at = end_positions(stream, vocab)
    if len(at) - 1 < every:
        stories = f"{max(0, len(at) - 1)}, the number of training stories"
        raise ValueError(f"apart ({every}) must be at most {stories}: give a lower --apart")
    # story k (counted from 1) goes from mark k - 1 up to mark k, which opens the next story
    starts, stops = at[every - 1 : -1 : every], at[every::every]
    training = [stream[a:b] for a, b in zip([0, *stops], [*starts, len(stream)], strict=True)]
    held_out = [stream[a:b] for a, b in zip(starts, stops, strict=True)]
    return training, np.concatenate([*held_out, stream[-1:]])


def pieces(stream: np.ndarray) -> Iterator[np.ndarray]:
    """A stream in views of at most PIECE symbols."""
    stream = np.asarray(stream)
    return (stream[at : at + PIECE] for at in range(0, len(stream), PIECE))
