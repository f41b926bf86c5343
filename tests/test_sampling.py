"""Sampling: the checks of the settings, the probabilities under these settings, and the draw."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process

from model.sampling import Sampling, pick, pick_each, probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], dtype=np.float32))
PLAIN = Sampling(temperature=1.0)
REFUSED = [
    ({"length": 0}, "length (0) must be a whole number of at least 1"),
    ({"length": 1.5}, "length (1.5) must be a whole number of at least 1"),
    ({"length": True}, "length (True) must be a whole number of at least 1"),
    ({"temperature": 2.01}, "temperature (2.01) must be a number from 0 to 2"),
    ({"temperature": -0.1}, "temperature (-0.1) must be a number from 0 to 2"),
    ({"temperature": float("nan")}, "temperature (nan) must be a number from 0 to 2"),
    ({"temperature": "0.8"}, "temperature ('0.8') must be a number from 0 to 2"),
    ({"temperature": True}, "temperature (True) must be a number from 0 to 2"),
    ({"top_k": -1}, "top_k (-1) must be a whole number of at least 0 (0 keeps all)"),
    ({"top_p": 0}, "top_p (0) must be a number above 0 and at most 1 (1 keeps all)"),
    ({"top_p": float("inf")}, "top_p (inf) must be a number above 0 and at most 1 (1 keeps all)"),
    ({"min_p": 1}, "min_p (1) must be a number from 0 to below 1 (0 keeps all)"),
    ({"min_p": None}, "min_p (None) must be a number from 0 to below 1 (0 keeps all)"),
    ({"seed": -1}, "seed (-1) must be a whole number from 0 to 2**63 - 1, or None"),
    ({"seed": 2**63}, f"seed ({2**63}) must be a whole number from 0 to 2**63 - 1, or None"),
    ({"seed": False}, "seed (False) must be a whole number from 0 to 2**63 - 1, or None"),
    ({"seed": 10**400}, f"seed (1{'0' * 36}...) must be a whole number from 0 to 2**63 - 1, or None"),
    ({"temperature": "1" * 400}, f"temperature ('{'1' * 36}...) must be a number from 0 to 2"),
    ({"drafts": 0}, "drafts (0) must be a whole number from 1 to 16"),
    ({"drafts": 17}, "drafts (17) must be a whole number from 1 to 16"),
    ({"drafts": float("nan")}, "drafts (nan) must be a whole number from 1 to 16"),
    ({"drafts": "8"}, "drafts ('8') must be a whole number from 1 to 16"),
    ({"beams": 5}, "beams (5) must be a whole number from 1 to 4"),
    ({"beams": True}, "beams (True) must be a whole number from 1 to 4"),
    ({"beams": 1.5}, "beams (1.5) must be a whole number from 1 to 4"),
    ({"stop_at_end": 1}, "stop_at_end (1) must be True or False"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_refuses_with_value_and_limits(settings: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sampling(**settings)
    assert str(caught.value) == message


def test_takes_the_limits_and_the_numbers_of_numpy() -> None:
    Sampling(length=1, temperature=2, top_k=10**6, top_p=1, min_p=0, seed=2**63 - 1)
    Sampling(length=np.int64(5), temperature=np.float32(0.5), top_k=np.int32(3))


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAIN.length = 3


def test_seeded_keeps_a_seed_and_draws_a_missing_one() -> None:
    assert Sampling(seed=7).seeded() == Sampling(seed=7)
    drawn = {Sampling().seeded().seed for _ in range(5)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_temperature_divides_the_logits() -> None:
    weights = np.exp(LOGITS.astype(np.float64) / 0.5)
    left = probabilities(LOGITS, Sampling(temperature=0.5))
    assert left.dtype == np.float64
    np.testing.assert_allclose(left, weights / weights.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 5}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_k": 9}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 8 / 17, 0, 6 / 17, 3 / 17]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"min_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0, 0]),  # the first of the two that are left has 4/7
        ({"top_k": 3, "top_p": 0.8, "min_p": 0.76}, [0, 1, 0, 0, 0]),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 5e-324}, [0, 1, 0, 0, 0]),
    ],
)
def test_the_probabilities_under_each_setting(settings: dict, left: list[float]) -> None:
    np.testing.assert_allclose(probabilities(LOGITS, Sampling(**{"temperature": 1.0} | settings)), left, atol=1e-7)


def test_exactly_k_of_equal_logits_stay_those_with_the_lower_ids() -> None:
    logits = np.array([0.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    kept = probabilities(logits, Sampling(top_k=3)).nonzero()[0]
    assert kept.tolist() == [1, 2, 3]
    assert probabilities(np.zeros(97), Sampling(top_k=10)).nonzero()[0].tolist() == list(range(10))
    assert pick(np.zeros(97), Sampling(temperature=0), np.random.default_rng(0)) == 0


def test_an_excluded_symbol_stays_excluded() -> None:
    logits = LOGITS.copy()
    logits[1] = -np.inf
    np.testing.assert_allclose(probabilities(logits, PLAIN), [1 / 6, 0, 1 / 12, 1 / 2, 1 / 4], atol=1e-7)


SETTINGS = st.builds(
    Sampling,
    temperature=st.floats(0.05, 2),
    top_k=st.integers(0, 30),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 0.99),
)


@given(SETTINGS, st.integers(0, 2**32))
def test_agrees_with_transformers(sampling: Sampling, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, 20)
    steps = [logits_process.TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        steps.append(logits_process.TopKLogitsWarper(sampling.top_k))
    steps.append(logits_process.TopPLogitsWarper(float(sampling.top_p)))
    steps.append(logits_process.MinPLogitsWarper(float(sampling.min_p)))
    scores = torch.from_numpy(logits)[None]
    for step in steps:
        scores = step(None, scores)
    np.testing.assert_allclose(probabilities(logits, sampling), scores.softmax(-1)[0].numpy(), atol=1e-9)


@given(SETTINGS, st.lists(st.floats(-50, 50, width=16), min_size=1, max_size=97), st.integers(0, 2**32))
def test_picks_only_what_is_left(sampling: Sampling, logits: list[float], seed: int) -> None:
    left = probabilities(np.array(logits), sampling)
    assert left.sum() == pytest.approx(1)
    assert not sampling.top_k or np.count_nonzero(left) <= sampling.top_k
    assert left[pick(np.array(logits), sampling, np.random.default_rng(seed))] > 0


@given(SETTINGS, st.integers(0, 2**32))
def test_each_row_is_picked_as_it_is_alone(sampling: Sampling, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (4, 30)).astype(np.float32)
    together, alone = (np.random.default_rng(seed) for _ in range(2))
    assert pick_each(logits, sampling, together) == [pick(row, sampling, alone) for row in logits]


def test_picks_as_often_as_probable() -> None:
    generator = np.random.default_rng(0)
    counts = np.bincount([pick(LOGITS, PLAIN, generator) for _ in range(20_000)], minlength=5)
    expected = 20_000 * np.exp(LOGITS)
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi-squared, 4 degrees of freedom: p = 0.001


def test_a_seed_fixes_the_picks_and_greedy_needs_none() -> None:
    def picks(sampling: Sampling, seed: int) -> list[int]:
        generator = np.random.default_rng(seed)
        return [pick(LOGITS, sampling, generator) for _ in range(50)]

    assert picks(PLAIN, 1) == picks(PLAIN, 1) != picks(PLAIN, 2)
    assert picks(Sampling(temperature=0), 1) == picks(Sampling(temperature=0), 2) == [1] * 50
