"""An encoded text taken apart in pieces gives what it gives taken whole, in little memory."""

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
from train.text.encoded import counts, keep_apart, marks, stories_in

ROOT = Path(__file__).parents[1]
VOCAB, PLAIN = Vocab(["a", "b", END, "c"]), Vocab(["a", "b", "c"])
STREAMS = st.lists(st.lists(st.sampled_from([0, 1, 3]), max_size=9), min_size=1, max_size=20)


def stream(stories: list[list[int]]) -> np.ndarray:
    """End, story, end, story, ..., end."""
    return np.array([VOCAB.end, *(id for story in stories for id in [*story, VOCAB.end])], np.uint8)


@pytest.fixture(params=[1, 3, encoded.PIECE])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so short that every story is cut, and as they are."""
    monkeypatch.setattr(encoded, "PIECE", request.param)


@pytest.mark.usefixtures("pieces")
def test_pieces_give_what_the_whole_gives() -> None:
    @given(STREAMS, st.integers(1, 25), st.integers(0, 25))
    def check(stories: list[list[int]], every: int, first: int) -> None:
        text = stream(stories)
        assert counts(text, 5).tolist() == np.bincount(text, minlength=5).tolist()
        assert marks(text, VOCAB).tolist() == np.flatnonzero(text == VOCAB.end).tolist()
        whole = [[VOCAB.end, *story, VOCAB.end] for story in stories]
        assert [found.tolist() for found in stories_in(text, VOCAB)] == whole
        assert [found.tolist() for found in stories_in(text, VOCAB, first)] == whole[:first]
        if every > len(stories):
            with pytest.raises(ValueError, match=rf"^apart \({every}\) must be at most {len(stories)}, the number of"):
                keep_apart(text, VOCAB, every)
            return
        training, watched = keep_apart(text, VOCAB, every)
        train = [story for number, story in enumerate(stories, 1) if number % every]
        assert np.concatenate(training).tolist() == stream(train).tolist()
        assert all(np.shares_memory(part, text) for part in training if len(part))
        assert watched.tolist() == stream(stories[every - 1 :: every]).tolist()

    check()


def test_a_text_without_marks_is_one_sequence() -> None:
    text = np.array([2, 1, 0], np.uint8)
    start = PLAIN.start
    for first in (None, 1, 7):
        (found,) = stories_in(text, PLAIN, first)
        assert found.tolist() == [start, 2, 1, 0] and found.dtype == np.uint8
    assert len(marks(text, PLAIN)) == 0
    with pytest.raises(ValueError, match=r"^apart \(1\) must be at most 0"):
        keep_apart(text, PLAIN, 1)


def test_the_first_stories_are_had_without_reading_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "PIECE", 4)
    looked_at = []
    pieces = encoded._pieces

    def noted(text: np.ndarray) -> Iterator[np.ndarray]:
        for piece in pieces(text):
            looked_at.append(piece)
            yield piece

    text = stream([[0, 1]] * 1000)
    monkeypatch.setattr(encoded, "_pieces", noted)
    assert len(stories_in(text, VOCAB, 3)) == 3
    assert sum(map(len, looked_at)) == 12  # three stories and their four marks take ten


def test_a_long_text_takes_little_memory() -> None:
    """200 MB of it, in a process of its own: tens of MB more than the views that are the result."""
    script = """
import numpy as np
from docs.bench import peak_memory
from model.vocab import Vocab
from train.text.encoded import counts, keep_apart, marks, stories_in
vocab = Vocab.ascii()
text = np.tile(np.append(np.arange(999) % 96, vocab.end).astype(np.uint8), 200_000)
text[0] = vocab.end
before = peak_memory()
counts(text, len(vocab)), marks(text, vocab), stories_in(text, vocab, 500)
training, watched = keep_apart(text, vocab, 20)
print(peak_memory() - before, len(watched) / 2**20)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    taken, watched = map(float, done.stdout.split())
    assert taken < watched + 50
