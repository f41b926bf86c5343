"""Decoders: reading in pieces gives the same logits as reading at once, also when the context is full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import model
from model.decoder import OnnxDecoder, TorchDecoder, cached_length
from model.storyteller import Storyteller

CONTEXT = 32
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=["tiny_artifact", "tiny_classic", "tiny_onnx", "tiny_classic_onnx"])
def storyteller(request: pytest.FixtureRequest) -> Storyteller:
    """A model of each architecture, with each decoder."""
    found = model.load(request.getfixturevalue(request.param))
    assert type(found.decoder()) is (OnnxDecoder if request.param.endswith("onnx") else TorchDecoder)
    return found


def some_ids(storyteller: Storyteller, n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, len(storyteller.vocab), n).tolist()


def window(ids: list[int], context: int) -> list[int]:
    """Returns the ids in memory after all were read one by one: the rule, in its simplest form."""
    memory: list[int] = []
    for id in ids:
        if len(memory) == context:
            memory = memory[context - context // 2 :]
        memory.append(id)
    return memory


def test_cached_logits_equal_uncached_at_every_split(storyteller: Storyteller) -> None:
    ids = some_ids(storyteller, CONTEXT)
    decoder = storyteller.decoder()
    whole = decoder.logits(ids)
    assert whole.shape == (CONTEXT, len(storyteller.vocab))
    assert whole.dtype == np.float32
    for split in range(1, CONTEXT):
        decoder.reset()
        np.testing.assert_allclose(decoder.feed(ids[:split]), whole[split - 1], **CLOSE)
        np.testing.assert_allclose(decoder.feed(ids[split:]), whole[-1], **CLOSE)


def test_one_by_one_through_several_contexts(storyteller: Storyteller) -> None:
    ids = some_ids(storyteller, 3 * CONTEXT)
    decoder, reference = storyteller.decoder(), storyteller.decoder()
    for read in range(1, len(ids) + 1):
        expected = reference.logits(window(ids[:read], CONTEXT))[-1]
        np.testing.assert_allclose(decoder.feed(ids[read - 1 : read]), expected, **CLOSE)


@pytest.mark.parametrize("pieces", [(32, 1), (33,), (31, 2), (20, 20), (1, 96, 1), (50, 50), (200,)])
def test_pieces_that_overflow_the_context(storyteller: Storyteller, pieces: tuple[int, ...]) -> None:
    ids = some_ids(storyteller, sum(pieces))
    decoder, done = storyteller.decoder(), 0
    for piece in pieces:
        logits = decoder.feed(ids[done : done + piece])
        done += piece
        np.testing.assert_allclose(logits, decoder.logits(window(ids[:done], CONTEXT))[-1], **CLOSE)


@given(st.integers(1, 40), st.lists(st.integers(1, 100), max_size=6))
def test_cached_length_follows_the_rule_for_all_pieces(context: int, pieces: list[int]) -> None:
    before = total = 0
    for piece in pieces:
        before, total = cached_length(before, piece, context), total + piece
        assert before == len(window(list(range(total)), context))


def test_a_symbol_does_not_change_the_logits_before_it(storyteller: Storyteller) -> None:
    ids = some_ids(storyteller, CONTEXT)
    decoder = storyteller.decoder()
    whole = decoder.logits(ids)
    for at in (1, 15, CONTEXT - 1):
        changed = decoder.logits([*ids[:at], (ids[at] + 1) % len(storyteller.vocab), *ids[at + 1 :]])
        np.testing.assert_allclose(changed[:at], whole[:at], **CLOSE)
        assert np.abs(changed[at:] - whole[at:]).max(axis=-1).min() > 1e-3


def test_every_symbol_in_memory_counts(storyteller: Storyteller) -> None:
    ids = some_ids(storyteller, CONTEXT)
    decoder = storyteller.decoder()
    last = decoder.logits(ids)[-1]
    for at in (0, 1, 15, CONTEXT - 2):
        changed = decoder.logits([*ids[:at], (ids[at] + 1) % len(storyteller.vocab), *ids[at + 1 :]])
        assert np.abs(changed[-1] - last).max() > 1e-4


def test_stories_do_not_touch_each_other(storyteller: Storyteller) -> None:
    ids = some_ids(storyteller, 20)
    alone, one, other = (storyteller.decoder() for _ in range(3))
    expected = alone.feed(ids)
    one.feed(ids[:10])
    other.feed(some_ids(storyteller, 25, seed=1))
    one.logits(some_ids(storyteller, 30, seed=2))
    if isinstance(one, TorchDecoder):
        one.attention(ids, 0, 0)
    logits = one.feed(ids[10:])
    np.testing.assert_allclose(logits, expected, **CLOSE)
    logits[:] = 0  # the caller may change the array
    again = storyteller.decoder().feed(ids)
    np.testing.assert_array_equal(again, expected)
    one.reset()
    np.testing.assert_array_equal(one.feed(ids), expected)


def test_attention_looks_back_only(storyteller: Storyteller) -> None:
    decoder = TorchDecoder(storyteller.network)
    config = storyteller.config
    for layer in range(config.layers * config.loops):
        looks = decoder.attention(some_ids(storyteller, 9), layer, config.heads - 1)
        assert looks.shape == (9, 9)
        np.testing.assert_allclose(looks.sum(axis=-1), 1, atol=1e-5)
        assert (np.triu(looks, 1) == 0).all()


def test_refuses_no_ids_and_too_many_ids(storyteller: Storyteller) -> None:
    decoder = storyteller.decoder()
    for call, message in (
        (lambda: decoder.feed([]), "a decoder reads at least one symbol; a story opens with Vocab.start"),
        (lambda: decoder.logits([]), "a decoder reads at least one symbol; a story opens with Vocab.start"),
        (lambda: decoder.logits([1] * 33), "33 symbols exceed the context (32)"),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message


def test_attention_refuses_layers_and_heads_that_are_not_there(storyteller: Storyteller) -> None:
    decoder = TorchDecoder(storyteller.network)
    depth = storyteller.config.layers * storyteller.config.loops
    for call, message in (
        (lambda: decoder.attention([1], depth, 0), f"layer ({depth}) must be from 0 to {depth - 1}"),
        (lambda: decoder.attention([1], 0, -1), "head (-1) must be from 0 to 1"),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message
