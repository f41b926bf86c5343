"""A seeded, stateless source of batches: batch(step) is a pure function of (seed, step).

Shapes: B batch, T context, N characters of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 20  # symbols that are copied at a time
MARKED = 8  # of so many rows one opens with the mark, where there is one


class Batches:
    """Random windows of an encoded text that is held as one uint8 tensor on the training device.

    Offsets come from a counter-based hash, computed where the text is: no generator has state to save or to share,
    every device draws the same windows, and a GPU never waits for the host. The first `opening` share of the rows begin
    where a story does, at a symbol `opens`. A share `replay_share` of all comes from another text, `replay`. `part`
    (number, count) takes the rows of one of several equal parts. `mark` takes the place of the first symbol of one row
    in MARKED: in a text without stories a network could not learn otherwise that the mark opens a prompt.
    """

    def __init__(
        self,
        text: np.ndarray | Sequence[np.ndarray],
        *,
        context: int,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        opens: int | None = None,
        opening: float = 0.0,
        replay: np.ndarray | None = None,
        replay_share: float = 0.0,
        mark: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        stretches = [text] if isinstance(text, np.ndarray) else list(text)
        again = [] if replay is None else [replay]
        self.own, self.replayed = sum(map(len, stretches)), sum(map(len, again))
        for size, name in ((self.own, "to train on"), *((len(text), "to replay") for text in again)):
            if size <= context:
                mend = "give more of it, or a model of a shorter context"
                raise ValueError(
                    f"the text {name} ({size} symbols) must be longer than the context ({context}): {mend}"
                )
        self.text = on_device([*stretches, *again], device)  # (N + M,), M of them to replay
        self.replay_share = replay_share if replay is not None else 0.0
        self.seed, self.mark = mix_seed(seed), mark
        self.batch_size, self.part = batch_size, part
        self.rows = rows_of(batch_size, part).to(device)
        self.columns = torch.arange(context + 1, device=device)
        self.opening = opening
        if opening:
            room = self.text[: self.own - context].split(PIECE) if opens is not None else []
            found = [(piece == opens).nonzero()[:, 0] + at * PIECE for at, piece in enumerate(room)]
            if not sum(map(len, found)):
                raise ValueError(f"no story begins {context} characters before the end: windows cannot open stories")
            self.starts = torch.cat(found)  # (S,)

    def shortened(self, context: int) -> Batches:
        """A source of windows of `context` characters from the same text, with as many characters in a batch."""
        short = copy(self)
        short.batch_size = self.batch_size * self.context // context
        short.rows = rows_of(short.batch_size, self.part).to(self.rows.device)
        short.columns = self.columns[: context + 1]
        return short

    def reseeded(self, seed: int) -> Batches:
        """Other windows of the same text, whole batches of them, none of which is at a chosen place."""
        other = copy(self)
        other.seed, other.part, other.mark, other.opening, other.replay_share = mix_seed(seed), (0, 1), None, 0.0, 0.0
        other.rows = rows_of(self.batch_size, other.part).to(self.rows.device)
        return other

    @property
    def context(self) -> int:
        return len(self.columns) - 1

    def batch(self, step: int | Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets, the same windows one character later: (B, T) int64 each. A `step` () may be int64."""
        counters = self.rows + step * self.batch_size
        numbers = hash64(counters, self.seed)
        offsets = numbers % (self.own - self.context)
        if self.opening:
            opening = self.rows < round(self.opening * self.batch_size)
            offsets = torch.where(opening, self.starts[numbers % len(self.starts)], offsets)
        if self.replay_share:
            draws = hash64(numbers, self.seed)
            elsewhere = self.own + draws % (self.replayed - self.context)
            offsets = torch.where(hash64(draws, self.seed) < int(self.replay_share * 2**63), elsewhere, offsets)
        windows = self.text[offsets[:, None] + self.columns].long()  # (B, T + 1)
        if self.mark is not None:
            windows[:, 0].masked_fill_(hash64(~numbers, self.seed) % MARKED == 0, self.mark)
        return windows[:, :-1], windows[:, 1:]


def on_device(stretches: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    """Stretches of text as one uint8 tensor, copied in pieces, so that the host holds no second copy for a GPU."""
    whole = torch.empty(sum(map(len, stretches)), dtype=torch.uint8, device=device)
    end = 0
    for stretch in stretches:
        for start in range(0, len(stretch), PIECE):
            piece = torch.from_numpy(np.array(stretch[start : start + PIECE], dtype=np.uint8))
            whole[end : end + len(piece)] = piece
            end += len(piece)
    return whole


def rows_of(batch_size: int, part: tuple[int, int]) -> Tensor:
    """The numbers of the rows of a batch in part `number` of `count`. Raises ValueError where it does not divide."""
    number, count = part
    if batch_size % count:
        raise ValueError(f"batch_size ({batch_size}) must be a multiple of the number of ranks ({count})")
    return torch.arange(batch_size).view(count, -1)[number]


def hash64(counters: Tensor, seed: int) -> Tensor:
    """SplitMix64 of int64 counters and a seed from `mix_seed`, as 63 well-mixed bits: non-negative int64, same shape.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. int64 products wrap in torch.
    """
    z = mix64(counters * _signed(0x9E3779B97F4A7C15) + seed)
    return z & 0x7FFFFFFFFFFFFFFF


def mix_seed(seed: int) -> int:
    """Spreads a small seed over 64 bits, so that neighbouring seeds share no stretch of their streams."""
    return int(mix64(torch.tensor(seed + 1) * _signed(0xD1342543DE82EF95)))


def mix64(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift right: int64 shifts copy the sign, which the mask clears."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of `value`, taken modulo 2 ** 64."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value
