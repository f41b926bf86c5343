"""What reads symbols and gives the logits of the next one; it remembers what it has read of a story.

Shapes: T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn


class Decoder(Protocol):
    """Symbol ids in, float32 logits out, as numpy arrays; one decoder tells one story at a time.

    It remembers up to `context` symbols. When one more comes, it reads the newer half of them again and goes on.
    """

    context: int

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Reads ids, one or more, after those before; returns the logits (V,) of the symbol that follows them."""
        ...

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The logits (T, V) after each of 1 to `context` ids, read on their own; the story fed so far is kept."""
        ...

    def reset(self) -> None:
        """Forgets the story fed so far."""
        ...


def remembered(before: int, more: int, context: int) -> int:
    """How many symbols are in memory once `more` are read one by one after the `before` that are there already."""
    beyond = before + more - context
    if beyond <= 0:
        return before + more
    half = context // 2
    return half + (beyond - 1) % (context - half) + 1


class TorchDecoder:
    """A `Decoder` over the network (put into eval mode), on its device, with a cache that is allocated once."""

    def __init__(self, network: nn.Module) -> None:
        import torch

        from model.gpt import KVCache

        weight = next(network.parameters())
        self.context: int = network.config.context
        self._torch, self._network, self._device = torch, network.eval(), weight.device
        self._cache = KVCache(network.config, device=weight.device, dtype=weight.dtype)
        self._ids: list[int] = []  # what the cache holds

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        ids = list(ids)
        kept = remembered(len(self._ids), len(ids), self.context)
        if kept < len(self._ids) + len(ids):  # the context is full: read its newer half again
            ids = (self._ids + ids)[-kept:]
            self.reset()
        with self._torch.inference_mode():
            logits = self._network(self._batch(ids), self._cache)[0, -1]
        self._ids += ids
        return logits.cpu().numpy()

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        with self._torch.inference_mode():
            return self._network(self._batch(ids))[0].cpu().numpy()

    def attention(self, ids: Sequence[int], layer: int, head: int) -> np.ndarray:
        """How much each position looks at each other, (T, T), rows summing to 1; `layer` and `head` count from 0."""
        config = self._network.config
        for name, value, limit in (("layer", layer, config.layers * config.loops), ("head", head, config.heads)):
            if not 0 <= value < limit:
                raise ValueError(f"{name} ({value}) must be from 0 to {limit - 1}")
        with self._torch.inference_mode():
            return self._network.attention(self._batch(ids), layer)[0, head].cpu().numpy()

    def reset(self) -> None:
        self._cache.clear()
        self._ids = []

    def _batch(self, ids: Sequence[int]) -> Tensor:
        """(1, T) on the network's device."""
        if not ids:
            raise ValueError("a decoder reads at least one symbol; a story opens with Vocab.start")
        return self._torch.tensor([ids], device=self._device)
