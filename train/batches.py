"""Batches without state: batch(step) is a pure function of (seed, step).

Shapes: B batch, T context, N characters of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 20  # symbols copied at a time
MARK_EVERY = 8  # with `mark`, one row in so many begins with it


class Batches:
    """Random windows of an encoded text, which is one tensor of uint8 or int16 on the training device.

    A counter-based hash gives the offsets. It is computed on the device that holds the text. So there is no generator
    whose state must be saved or shared, every device draws the same windows, and a GPU never waits for the host.

    opening: the share of rows, the first ones of a batch, that begin where a story begins: at a symbol `story_start`.
    replay_share: the share of all windows that come from another text, `replay`.
    mark: replaces the first symbol of one row in MARK_EVERY. In a text without stories, the network can learn only
        in this way that the mark comes before a prompt.
    part: (number, count) selects the rows of one of `count` equal parts.
    use: what the text is for, as the error about a text that is too short says it.
    """

    def __init__(
        self,
        text: np.ndarray | Sequence[np.ndarray],
        *,
        context: int,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        story_start: int | None = None,
        opening: float = 0.0,
        replay: np.ndarray | None = None,
        replay_share: float = 0.0,
        mark: int | None = None,
        part: tuple[int, int] = (0, 1),
        use: str = "to train on",
    ) -> None:
        stretches = [text] if isinstance(text, np.ndarray) else list(text)
        again = [] if replay is None else [replay]
        self.main_size, self.replay_size = sum(map(len, stretches)), sum(map(len, again))
        for size, name in ((self.main_size, use), *((len(text), "to replay") for text in again)):
            if size <= context:
                fix = "give a longer text, or a lower --context"
                raise ValueError(f"the text {name} ({size} symbols) must be longer than the context ({context}): {fix}")
        self.text = to_device([*stretches, *again], device)  # (N + M,): the M last symbols are the replayed text
        self.replay_share = replay_share if replay is not None else 0.0
        self.seed, self.mark = mix_seed(seed), mark
        self.batch_size, self.part = batch_size, part
        self.rows = rows_of(batch_size, part).to(device)
        self.columns = torch.arange(context + 1, device=device)
        self.opening = opening
        if opening:
            room = self.text[: self.main_size - context].split(PIECE) if story_start is not None else []
            found = [(piece == story_start).nonzero()[:, 0] + at * PIECE for at, piece in enumerate(room)]
            if not sum(map(len, found)):
                raise ValueError(
                    f"opening ({opening}) needs a story that begins at least {context} characters (the context) before "
                    "the end of the text: give --opening 0, or a lower --context"
                )
            self.starts = torch.cat(found)  # (S,)

    def shortened(self, context: int) -> Batches:
        """A source of windows of `context` characters from the same text. A batch has as many characters as here."""
        short = copy(self)
        short.batch_size = self.batch_size * self.context // context
        short.rows = rows_of(short.batch_size, self.part).to(self.rows.device)
        short.columns = self.columns[: context + 1]
        return short

    def reseeded(self, seed: int) -> Batches:
        """Whole batches of other windows of the same text, all at random offsets: no opening, mark, replay or part."""
        other = copy(self)
        other.seed, other.part, other.mark, other.opening, other.replay_share = mix_seed(seed), (0, 1), None, 0.0, 0.0
        other.rows = rows_of(self.batch_size, other.part).to(self.rows.device)
        return other

    @property
    def context(self) -> int:
        return len(self.columns) - 1

    def batch(self, step: int | Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (B, T) int64 each; targets are one character later. `step` may be an int64 tensor ()."""
        counters = self.rows + step * self.batch_size
        numbers = hash64(counters, self.seed)
        offsets = numbers % (self.main_size - self.context)
        if self.opening:
            opening = self.rows < round(self.opening * self.batch_size)
            offsets = torch.where(opening, self.starts[numbers % len(self.starts)], offsets)
        if self.replay_share:
            draws = hash64(numbers, self.seed)
            replayed = self.main_size + draws % (self.replay_size - self.context)
            offsets = torch.where(hash64(draws, self.seed) < int(self.replay_share * 2**63), replayed, offsets)
        windows = self.text[offsets[:, None] + self.columns].long()  # (B, T + 1)
        if self.mark is not None:
            windows[:, 0].masked_fill_(hash64(~numbers, self.seed) % MARK_EVERY == 0, self.mark)
        return windows[:, :-1], windows[:, 1:]


def to_device(stretches: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    """Joins stretches of text (uint8 or uint16) as one tensor, in pieces, so that the host needs no second copy.

    Two bytes are read as int16, because torch has few operations for uint16; ids are less than 2 ** 13.
    """
    narrow = np.result_type(*stretches) == np.uint8
    dtype = torch.uint8 if narrow else torch.int16
    whole = torch.empty(sum(map(len, stretches)), dtype=dtype, device=device)
    end = 0
    for stretch in stretches:
        for start in range(0, len(stretch), PIECE):
            piece = torch.from_numpy(np.array(stretch[start : start + PIECE], np.uint8 if narrow else np.int16))
            whole[end : end + len(piece)] = piece
            end += len(piece)
    return whole


def rows_of(batch_size: int, part: tuple[int, int]) -> Tensor:
    """The row numbers of a batch in part (number, count). Raises ValueError if `count` does not divide `batch_size`."""
    number, count = part
    if batch_size % count:
        raise ValueError(f"batch_size ({batch_size}) must be a multiple of the number of ranks ({count})")
    return torch.arange(batch_size).view(count, -1)[number]


def hash64(counters: Tensor, seed: int) -> Tensor:
    """SplitMix64 of int64 counters and a seed from `mix_seed`: 63 well-mixed bits, as non-negative int64 of that shape.

    int64 products wrap in torch, as needed.
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    z = mix64(counters * _signed(0x9E3779B97F4A7C15) + seed)
    return z & 0x7FFFFFFFFFFFFFFF


def mix_seed(seed: int) -> int:
    """Spreads a small seed over 64 bits, so that the streams of neighbouring seeds do not overlap."""
    return int(mix64(torch.tensor(seed + 1) * _signed(0xD1342543DE82EF95)))


def mix64(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift right: an int64 shift copies the sign bit, and the mask clears the copies."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits as `value` modulo 2 ** 64."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value
