"""From logits to the next symbol: the settings, the probabilities under these settings, and the draw.

Shape: V vocabulary.
"""

import secrets
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

SETTINGS = (
    "length",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "drafts",
    "beams",
)  # with these and the prompt, the same story can be told again


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a story is drawn. An invalid setting raises ValueError with its value and its limits.

    `length` is in characters. `temperature` 0 takes the likeliest symbol and ignores the seed. Otherwise the logits are
    divided by it, and then, in the order of transformers, `top_k` keeps the k likeliest symbols (0: all), `top_p` the
    smallest number of the likeliest that together reach that probability (1: all), and `min_p` those whose probability
    is at least that share of the likeliest one's (0: all). With `seed` None each call draws another story. Without
    `stop_at_end` the story continues until `length`.

    With several `drafts`, each sentence is drawn that many times and the best is kept. With several `beams`, that many
    beginnings of the story are continued at the same time, each with its own drafts, until the best one is known. Such
    a story ends with a whole sentence, unless not even one fits into `length`.
    """

    length: int = 600
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop_at_end: bool = True
    drafts: int = 1
    beams: int = 1

    def __post_init__(self) -> None:
        checks = {
            "length": (_is_integer(self.length) and self.length >= 1, "a whole number of at least 1"),
            "temperature": (_is_number(self.temperature) and 0 <= self.temperature <= 2, "a number from 0 to 2"),
            "top_k": (_is_integer(self.top_k) and self.top_k >= 0, "a whole number of at least 0 (0 keeps all)"),
            "top_p": (_is_number(self.top_p) and 0 < self.top_p <= 1, "a number above 0 and at most 1 (1 keeps all)"),
            "min_p": (_is_number(self.min_p) and 0 <= self.min_p < 1, "a number from 0 to below 1 (0 keeps all)"),
            "seed": (
                self.seed is None or (_is_integer(self.seed) and 0 <= self.seed < 2**63),
                "a whole number from 0 to 2**63 - 1, or None",
            ),
            "stop_at_end": (isinstance(self.stop_at_end, bool), "True or False"),
            "drafts": (_is_integer(self.drafts) and 1 <= self.drafts <= 16, "a whole number from 1 to 16"),
            "beams": (_is_integer(self.beams) and 1 <= self.beams <= 4, "a whole number from 1 to 4"),
        }
        for name, (fits, limits) in checks.items():
            if not fits:
                raise ValueError(f"{name} ({short_repr(getattr(self, name))}) must be {limits}")

    def seeded(self) -> "Sampling":
        """Returns these settings with a seed: their own, or a random one that is short enough to write down."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(2**32))


def short_repr(value: object) -> str:
    """Returns the repr of a value, at most 40 characters: clients may send long values, and errors must be short."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def probabilities(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Returns the probability (V,), float64, of each next symbol, from logits (V,). Ties go to the lower id."""
    if sampling.temperature == 0:
        likeliest = np.zeros(len(logits))
        likeliest[np.argmax(logits)] = 1
        return likeliest
    kept = weights(logits, sampling)
    return kept / kept.sum()


def weights(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Returns unnormalised probabilities, float64, for logits (V,) or (R, V) and a temperature above 0."""
    kept = logits.astype(np.float64)  # a copy, changed in place below: this runs for each character
    # For a single row, argmax takes a third of the time of max().
    kept -= kept[kept.argmax()] if kept.ndim == 1 else kept.max(axis=-1, keepdims=True)
    kept /= max(sampling.temperature, 1e-300)  # with a smaller divisor, float32 logits would overflow
    np.exp(kept, out=kept)  # the likeliest symbol has weight 1
    if 0 < sampling.top_k < logits.shape[-1] or sampling.top_p < 1:
        for row in kept.reshape(-1, logits.shape[-1]):
            _cut(row, sampling)
    if sampling.min_p:
        kept[kept < sampling.min_p] = 0
    return kept


def _cut(kept: np.ndarray, sampling: Sampling) -> None:
    """Sets those weights of (V,) to 0 that `top_k` and `top_p` exclude."""
    ranked = np.sort(kept)[::-1][: sampling.top_k or None]
    if sampling.top_p < 1:
        shares = ranked.cumsum()
        ranked = ranked[: shares.searchsorted(sampling.top_p * shares[-1]) + 1]
    kept[kept < ranked[-1]] = 0
    if (surplus := np.count_nonzero(kept) - len(ranked)) > 0:  # ties: the lower ids stay
        kept[np.flatnonzero(kept == ranked[-1])[-surplus:]] = 0


def pick(logits: np.ndarray, sampling: Sampling, generator: np.random.Generator) -> int:
    """Returns the id of the next symbol, with one draw from `generator`. A symbol of probability 0 is never picked."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    shares = np.add.accumulate(weights(logits, sampling))
    return int(shares.searchsorted(generator.random() * shares[-1], side="right"))


def pick_each(logits: np.ndarray, sampling: Sampling, generator: np.random.Generator) -> list[int]:
    """Returns what `pick` would return for each row of logits (R, V) in order, for a temperature above 0."""
    shares = np.add.accumulate(weights(logits, sampling), axis=-1)
    draws = generator.random((len(logits), 1)) * shares[:, -1:]
    return np.count_nonzero(shares <= draws, axis=-1).tolist()


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# The defaults of the page and the command line; for the reasons see docs/reading/. 90 % of the stories in valid.txt
# are shorter.
USUAL = Sampling(length=1_100, temperature=0.5, min_p=0.02, drafts=5, beams=3)
