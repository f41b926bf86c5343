"""The share of one encoded text that stands in another."""

from __future__ import annotations

import random

import numpy as np
import pytest

from model.vocab import Vocab
from train.text.overlap import share_found

VOCAB = Vocab.ascii()


def stream(text: str) -> np.ndarray:
    return np.array(VOCAB.encode(text), np.uint8)


def words(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=draw.randint(1, 9))) for _ in range(count))


@pytest.mark.parametrize("piece", [50, 1 << 17])
def test_a_text_is_found_however_it_is_written(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("train.text.encoded.PIECE", piece)
    text, other = words(1, 900), words(2, 900)
    spread = text.upper().replace(" ", ",\n")
    assert share_found(stream(spread), stream(f"{other}. {text} {other}"), VOCAB) == 1
    assert share_found(stream(text), stream(other), VOCAB) == 0
    assert share_found(stream(text + " " + other), stream(text), VOCAB) == pytest.approx(0.5, abs=0.1)
    assert share_found(stream("too short"), stream("too short"), VOCAB) == 0


def test_every_passage_of_a_long_text_can_be_found() -> None:
    """The first and the last letters count, and one that differs hides its passage only."""
    text = words(3, 20_000)
    changed = text.replace(text[50_000:50_200], "another beginning of all", 1)
    assert 0.99 < share_found(stream(text), stream(changed), VOCAB) < 1
