"""Decoders read the symbols of a story and return the logits of the next one. They remember what they have read.

Shapes: B stories, L applications of a block, H heads, T time, D head width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from model.graph import OnnxGraph, PositionInputs, open_graph

if TYPE_CHECKING:
    from torch import Tensor, nn

CHUNK = 64  # symbols that a graph reads at once; other stories of the same batch wait for that, about 4 ms


class Decoder(Protocol):
    """Takes symbol ids and returns float32 logits, as numpy arrays. One decoder tells one story at a time.

    It remembers up to `context` symbols. When that many are read and one more comes, it forgets the older half, reads
    the newer half again and goes on.
    """

    context: int

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Reads one or more further ids of the story. Returns the logits (V,) of the symbol that follows them."""
        ...

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the logits (T, V) after each of 1 to `context` ids.

        They are read on their own: the story is unchanged.
        """
        ...

    def reset(self) -> None:
        """Forgets the story fed so far."""
        ...


def cached_length(before: int, more: int, context: int) -> int:
    """Returns how many symbols the cache holds after `more` are read one by one, if it held `before` of them."""
    beyond = before + more - context
    if beyond <= 0:
        return before + more
    half = context // 2
    return half + (beyond - 1) % (context - half) + 1


class CachingDecoder(ABC):
    """The part that all decoders share: which symbols the cache holds, and what is read again when it is full."""

    def __init__(self, context: int) -> None:
        self.context = context
        self._ids: list[int] = []  # the symbols that the cache holds

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        ids = require_ids(ids)
        kept = cached_length(len(self._ids), len(ids), self.context)
        if kept < len(self._ids) + len(ids):  # the context is full: read its newer half again
            ids = (self._ids + ids)[-kept:]
            self.reset()
        logits = self._append(ids)
        self._ids += ids
        return logits

    def reset(self) -> None:
        self._ids = []

    @abstractmethod
    def _append(self, ids: list[int]) -> np.ndarray:
        """Reads ids after those in `_ids`; all fit into the cache.

        Returns the logits (V,) after the last, a new array.
        """


def require_ids(ids: Sequence[int]) -> list[int]:
    """Returns the ids as a list. Raises ValueError if there are none."""
    if not ids:
        raise ValueError("a decoder reads at least one symbol; a story opens with Vocab.start")
    return list(ids)


class TorchDecoder(CachingDecoder):
    """A `Decoder` that runs the network with PyTorch, in eval mode and on its device. The cache is allocated once."""

    def __init__(self, network: nn.Module) -> None:
        import torch

        from model.attention import KVCache

        super().__init__(network.config.context)
        weight = next(network.parameters())
        self._torch, self._network, self._device = torch, network.eval(), weight.device
        self._cache = KVCache(network.config, device=weight.device, dtype=weight.dtype)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        with self._torch.inference_mode():
            return self._network(self._batch(ids))[0].cpu().numpy()

    def attention(self, ids: Sequence[int], layer: int, head: int) -> np.ndarray:
        """Returns the attention (T, T) of each position over all positions.

        Rows sum to 1; `layer` and `head` count from 0.
        """
        config = self._network.config
        for name, value, limit in (("layer", layer, config.layers * config.loops), ("head", head, config.heads)):
            if not 0 <= value < limit:
                raise ValueError(f"{name} ({value}) must be from 0 to {limit - 1}")
        with self._torch.inference_mode():
            return self._network.attention(self._batch(ids), layer)[0, head].cpu().numpy()

    def reset(self) -> None:
        super().reset()
        self._cache.clear()

    def _append(self, ids: list[int]) -> np.ndarray:
        with self._torch.inference_mode():
            return self._network(self._batch(ids), self._cache)[0, -1].cpu().numpy()

    def _batch(self, ids: Sequence[int]) -> Tensor:
        """Returns the ids as a tensor (1, T) on the network's device."""
        return self._torch.tensor([require_ids(ids)], device=self._device)


class OnnxDecoder(CachingDecoder):
    """A `Decoder` that runs the model.onnx of an artifact's folder, or an open graph. It never imports torch.

    The buffers for reading one symbol are bound once: then a symbol allocates nothing and copies no cache. Raises
    ArtifactError if the folder has no valid model.onnx.
    """

    def __init__(self, source: str | Path | OnnxGraph) -> None:
        self._graph = graph = source if isinstance(source, OnnxGraph) else open_graph(Path(source))
        super().__init__(graph.config.context)
        self._cache, self._place = graph.new_cache(self.context), PositionInputs(self.context)
        self._id = np.zeros((1, 1), np.int64)
        self._logits = np.zeros((1, 1, graph.config.vocab_size), np.float32)
        self._step = graph.bind(self._id, self._place, self._cache, self._logits)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        ids = require_ids(ids)
        if len(ids) > self.context:
            raise ValueError(f"{len(ids)} symbols exceed the context ({self.context})")
        cache = self._graph.new_cache(len(ids))
        return np.concatenate([self._graph.read(chunk, total, cache) for chunk, total in chunks(ids)])

    def _append(self, ids: list[int]) -> np.ndarray:
        for chunk, total in chunks(ids, len(self._ids)):
            if len(chunk) > 1:
                logits = self._graph.read(chunk, total, self._cache)[-1]
            else:
                self._id[0, 0] = chunk[0]
                self._place.last[0] = self._place.positions[0, 0] = total - 1
                self._step()
                logits = self._logits[0, 0]
        return logits.copy()


def chunks(ids: list[int], read: int = 0) -> Iterator[tuple[list[int], int]]:
    """Cuts ids into chunks that a graph reads at once. Yields (chunk, number of symbols read up to the chunk's end).

    `read` is the number of symbols read before. For every symbol of a chunk, attention is computed up to the chunk's
    end and then masked, so a symbol of a longer chunk costs more. All callers cut in the same way, because other chunks
    would give slightly different rounding.
    """
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        yield chunk, read + start + len(chunk)
