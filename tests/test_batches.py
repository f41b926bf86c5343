"""Batches: a pure function of seed and step, with windows spread evenly over the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.batches import Batches, hash64, mix_seed

TEXT = np.arange(251, dtype=np.uint8)


def batches(seed: int = 1, text: np.ndarray = TEXT) -> Batches:
    return Batches(text, context=8, batch_size=4, seed=seed)


def test_a_batch_depends_only_on_seed_and_step() -> None:
    one, other = batches(), batches()
    other.batch(99)
    torch.manual_seed(5)
    for step in (0, 1, 10**9):
        assert torch.equal(one.batch(step)[0], other.batch(step)[0])
    assert not torch.equal(one.batch(0)[0], one.batch(1)[0])
    assert not torch.equal(one.batch(0)[0], batches(seed=2).batch(0)[0])


def test_targets_are_the_inputs_one_character_later() -> None:
    inputs, targets = batches().batch(3)
    assert inputs.shape == targets.shape == (4, 8)
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs + 1, targets)


def test_neighbouring_seeds_share_no_rows() -> None:
    """If a seed only shifted the counter, it would repeat the rows of its neighbour."""
    text = np.random.default_rng(0).integers(0, 97, 100_000, dtype=np.uint8)
    rows = [{tuple(row.tolist()) for s in range(50) for row in batches(seed, text).batch(s)[0]} for seed in (1, 2)]
    assert not rows[0] & rows[1]


def test_every_window_is_equally_likely() -> None:
    source = batches()
    starts = torch.cat([source.batch(step)[0][:, 0] for step in range(6_000)])
    counts = np.bincount(starts.numpy(), minlength=243)
    assert len(counts) == 243  # 251 characters hold 243 windows of 8 + 1
    expected = len(starts) / 243
    assert ((counts - expected) ** 2 / expected).sum() < 243 + 5 * np.sqrt(2 * 243)  # chi-squared, five sigma


def test_hash_is_splitmix64() -> None:
    """Compared with the published algorithm in exact integers."""
    from train.batches import _signed

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    seed = mixed(8 * 0xD1342543DE82EF95 % 2**64)
    assert mix_seed(7) == _signed(seed)
    expected = [mixed((c * 0x9E3779B97F4A7C15 + seed) % 2**64) & (2**63 - 1) for c in (0, 1, 2**40)]
    assert hash64(torch.tensor([0, 1, 2**40]), mix_seed(7)).tolist() == expected


def test_a_text_shorter_than_the_context_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^the text to train on \(8 symbols\) must be longer than the context \(8\): give a longer text",
    ):
        batches(text=TEXT[:8])
    inputs, targets = batches(text=TEXT[:9]).batch(0)
    assert inputs[0].tolist() == list(range(8)) and targets[0].tolist() == list(range(1, 9))


def test_shortened_windows_hold_as_many_characters_of_the_same_text() -> None:
    inputs, targets = batches().shortened(2).batch(3)
    assert inputs.shape == targets.shape == (16, 2)
    assert torch.equal(inputs + 1, targets)
    assert batches().batch(3)[0].shape == (4, 8)


def test_the_given_share_of_windows_begins_where_stories_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.batches.PIECE", 16)  # so that the text is searched in pieces
    text = TEXT.copy()
    text[[3, 50, 245]] = 252  # the last one is too close to the end
    made, plain = (
        Batches(text, context=8, batch_size=4, seed=1, story_start=252, opening=share) for share in (0.5, 0.0)
    )
    assert made.starts.tolist() == [3, 50]
    inputs = torch.stack([made.batch(step)[0] for step in range(50)])  # (50, B, T)
    assert (inputs[:, :2, 0] == 252).all()
    assert set(inputs[:, :2, 1].flatten().tolist()) == {4, 51}
    assert len(set(inputs[:, 2:, 0].flatten().tolist())) > 50
    assert torch.equal(made.batch(7)[0][2:], plain.batch(7)[0][2:])


@pytest.mark.parametrize("story_start", [None, 250])
def test_a_text_without_usable_story_starts_is_refused(story_start: int | None) -> None:
    with pytest.raises(ValueError, match=r"^opening \(0.5\) needs a story that begins at least 8 characters "):
        Batches(TEXT, context=8, batch_size=4, seed=1, story_start=story_start, opening=0.5)


def test_reseeded_is_a_plain_source_of_the_same_text() -> None:
    source = Batches(
        TEXT, context=8, batch_size=4, seed=1, story_start=50, opening=0.5, mark=9, replay=TEXT[:20], part=(1, 2)
    )
    assert all(map(torch.equal, source.reseeded(7).batch(3), batches(7).batch(3)))
    assert source.reseeded(7).text is source.text


def test_a_step_as_a_tensor_gives_the_same_batch_as_a_number() -> None:
    source = batches()
    for step in (0, 7, 2**40):
        assert all(map(torch.equal, source.batch(torch.tensor(step)), source.batch(step)))


def test_stretches_of_a_text_are_joined() -> None:
    whole, parts = batches(), Batches([TEXT[:40], TEXT[40:]], context=8, batch_size=4, seed=1)
    assert torch.equal(parts.text, whole.text)
    assert all(map(torch.equal, parts.batch(3), whole.batch(3)))


def test_the_given_share_of_windows_comes_from_the_replayed_text() -> None:
    """Each window lies completely in one of the two texts, and every window of both can occur."""
    other = np.full(30, 252, dtype=np.uint8)
    other[::3] = 253
    made = Batches(TEXT, context=8, batch_size=4, seed=1, replay=other, replay_share=0.25)
    rows = torch.cat([made.batch(step)[0] for step in range(2_000)])
    replayed = (rows > 250).all(dim=1)
    assert torch.equal(replayed, (rows > 250).any(dim=1))
    assert float(replayed.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert len(set(rows[~replayed][:, 0].tolist())) == 243
    assert len({tuple(row) for row in rows[replayed].tolist()}) == 3  # the text repeats every three characters
    plain = Batches(TEXT, context=8, batch_size=4, seed=1)
    same = ~replayed[:4]
    assert torch.equal(made.batch(0)[0][same], plain.batch(0)[0][same])  # the other windows are unchanged
    with pytest.raises(
        ValueError, match=r"^the text to replay \(8 symbols\) must be longer than the context \(8\): give a longer text"
    ):
        Batches(TEXT, context=8, batch_size=4, seed=1, replay=other[:8], replay_share=0.25)


def test_in_a_text_without_stories_some_windows_begin_with_the_mark() -> None:
    """One row in eight begins with it. Everything else is unchanged."""
    made, plain = (Batches(TEXT, context=8, batch_size=4, seed=1, mark=mark) for mark in (255, None))
    marked = 0
    for step in range(500):
        (inputs, targets), (as_is, same) = made.batch(step), plain.batch(step)
        opened = inputs[:, 0] == 255
        marked += int(opened.sum())
        assert torch.equal(inputs[:, 1:], as_is[:, 1:]) and torch.equal(targets, same)
        assert torch.equal(inputs[~opened], as_is[~opened])
    assert marked / 2_000 == pytest.approx(1 / 8, abs=0.03)
