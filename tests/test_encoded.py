"""Processing an encoded text piece by piece gives the same results as at once, in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.vocab import END, Vocab
from train.text import encoded
from train.text.encoded import end_positions, split_every_nth, stories_in, symbol_counts

ROOT = Path(__file__).parents[1]
VOCAB, PLAIN = Vocab(["a", "b", END, "c"]), Vocab(["a", "b", "c"])
STREAMS = st.lists(st.lists(st.sampled_from([0, 1, 3]), max_size=9), min_size=1, max_size=20)


def stream(stories: list[list[int]]) -> np.ndarray:
    """End, story, end, story, ..., end."""
    return np.array([VOCAB.end, *(id for story in stories for id in [*story, VOCAB.end])], np.uint8)


@pytest.fixture(params=[1, 3, encoded.PIECE])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece sizes: so short that every story is cut, and the real one."""
    monkeypatch.setattr(encoded, "PIECE", request.param)


@pytest.mark.usefixtures("pieces")
def test_pieces_give_the_same_as_the_whole_text() -> None:
    @given(STREAMS, st.integers(1, 25), st.integers(0, 25))
    def check(stories: list[list[int]], every: int, first: int) -> None:
        text = stream(stories)
        assert symbol_counts(text, 5).tolist() == np.bincount(text, minlength=5).tolist()
        assert end_positions(text, VOCAB).tolist() == np.flatnonzero(text == VOCAB.end).tolist()
        whole = [[VOCAB.end, *story, VOCAB.end] for story in stories]
        assert [found.tolist() for found in stories_in(text, VOCAB)] == whole
        assert [found.tolist() for found in stories_in(text, VOCAB, first)] == whole[:first]
        if every > len(stories):
            with pytest.raises(ValueError, match=rf"^apart \({every}\) must be at most {len(stories)}, the number of"):
                split_every_nth(text, VOCAB, every)
            return
        training, held_out = split_every_nth(text, VOCAB, every)
        train = [story for number, story in enumerate(stories, 1) if number % every]
        assert np.concatenate(training).tolist() == stream(train).tolist()
        assert all(np.shares_memory(part, text) for part in training if len(part))
        assert held_out.tolist() == stream(stories[every - 1 :: every]).tolist()

    check()


def test_a_text_without_marks_is_one_sequence() -> None:
    text = np.array([2, 1, 0], np.uint8)
    start = PLAIN.start
    for first in (None, 1, 7):
        (found,) = stories_in(text, PLAIN, first)
        assert found.tolist() == [start, 2, 1, 0] and found.dtype == np.uint8
    assert len(end_positions(text, PLAIN)) == 0
    with pytest.raises(ValueError, match=r"^apart \(1\) must be at most 0"):
        split_every_nth(text, PLAIN, 1)


def test_the_first_stories_are_found_without_reading_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "PIECE", 4)
    read = []
    pieces = encoded.pieces

    def recorded(text: np.ndarray) -> Iterator[np.ndarray]:
        for piece in pieces(text):
            read.append(piece)
            yield piece

    text = stream([[0, 1]] * 1000)
    monkeypatch.setattr(encoded, "pieces", recorded)
    assert len(stories_in(text, VOCAB, 3)) == 3
    assert sum(map(len, read)) == 12  # in pieces of 4: three stories and their four marks are ten symbols


def test_a_long_text_takes_little_memory() -> None:
    """200 MB, in its own process: memory grows by the result and at most some tens of MB."""
    script = """
import numpy as np
from docs.bench import peak_memory
from model.vocab import Vocab
from train.text.encoded import end_positions, split_every_nth, stories_in, symbol_counts
vocab = Vocab.ascii()
text = np.tile(np.append(np.arange(999) % 96, vocab.end).astype(np.uint8), 200_000)
text[0] = vocab.end
before = peak_memory()
symbol_counts(text, len(vocab)), end_positions(text, vocab), stories_in(text, vocab, 500)
training, held_out = split_every_nth(text, vocab, 20)
print(peak_memory() - before, len(held_out) / 2**20)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    taken, held_out = map(float, done.stdout.split())
    assert taken < held_out + 50
