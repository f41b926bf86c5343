"""Reads several drafts that continue one beginning, a symbol at a time each. The beginning is in memory only once.

Shapes: L applications of a block, R rows (a draft each), H heads, S columns of the cache, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from model.decoder import require_ids
from model.graph import MASKED, OnnxGraph, PositionInputs

if TYPE_CHECKING:
    from torch import nn

    from model.attention import KVCache

MAX_UNSETTLED = 3  # the last sentences of a story, at most, that may still change
Origin = tuple[int, int]  # (a row, how many of the symbols that it has read since the last branch are kept)


class Drafts(Protocol):
    """Rows that share one beginning and then differ. The beginning is read once. Each row must fit into the context."""

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Reads ids as the beginning, or as its continuation after another `feed`.

        Returns the next symbol's logits (V,).
        """
        ...

    def reset(self) -> None:
        """Forgets everything that was read."""
        ...

    def branch(self, origins: Sequence[Origin], rows: int) -> None:
        """Makes new rows: row i continues from origins[i]. Only the first `rows` of them will read further symbols.

        The others are kept as they are. What no origin needs is forgotten. After `feed`, the beginning is row 0.
        """
        ...

    def step(self, ids: Sequence[int]) -> np.ndarray:
        """Reads one more symbol in each row that continues.

        Returns the logits (R, V) of the symbol after each of them.
        """
        ...


class OnnxDrafts:
    """`Drafts` in one cache: the graph reads all rows as one sequence, and each row sees only its own columns of it.

    Between two branches at most `rows` rows read at most `steps` symbols each. At most `branches` of these rows
    are kept, and they share all that was read before the last `MAX_UNSETTLED + 1` branches. Columns of the cache that
    are never used take no memory.
    """

    def __init__(self, graph: OnnxGraph, rows: int, steps: int, branches: int) -> None:
        length = graph.config.context + (rows + (MAX_UNSETTLED + 1) * branches) * steps
        self._graph, self._cache = graph, graph.new_cache(length)
        self.reset()

    def reset(self) -> None:
        self._rows = 1
        self._used = self._start = 0  # columns in use: now, and at the last branch
        self._paths = [np.arange(0)]  # for each row, the columns below `_start` that it sees

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        ids = require_ids(ids)
        self._used = self._start = self._used + len(ids)
        self._paths = [np.arange(self._used)]
        return self._graph.read(ids, self._used, self._cache)[-1]

    def branch(self, origins: Sequence[Origin], rows: int) -> None:
        paths = [np.append(self._paths[row], self._start + row + self._rows * np.arange(n)) for row, n in origins]
        kept = np.unique(np.concatenate(paths))
        moved = int(np.argmax(np.append(kept, -1) != np.arange(len(kept) + 1)))  # the columns before need not move
        self._cache[:, :, :, moved : len(kept)] = self._cache[:, :, :, kept[moved:]]
        self._paths = [np.searchsorted(kept, path) for path in paths]
        self._used = self._start = len(kept)
        self._bind(rows)

    def _bind(self, rows: int) -> None:
        """Binds the graph to arrays for the first `rows` rows."""
        length = self._cache.shape[3]
        self._rows, self._place, self._ids = rows, PositionInputs(length, rows), np.zeros((1, rows), np.int64)
        self._logits = np.zeros((1, rows, self._graph.config.vocab_size), np.float32)
        self._place.bias[:] = MASKED
        for row, path in enumerate(self._paths[:rows]):
            self._place.bias[0, 0, row, path] = 0
            self._place.positions[0, row] = len(path)
        self._run = self._graph.bind(self._ids, self._place, self._cache, self._logits)

    def step(self, ids: Sequence[int]) -> np.ndarray:
        self._ids[0] = ids
        np.fill_diagonal(self._place.bias[0, 0, :, self._used :], 0)  # each row sees its new column
        self._used += self._rows
        self._place.last[0] = self._used - 1
        self._run()
        self._place.positions += 1
        return self._logits[0]


class TorchDrafts:
    """`Drafts` that run the network, on its device. Rows with the same origin are one batch with a cache of its own."""

    def __init__(self, network: nn.Module) -> None:
        import torch

        self._torch, self._network = torch, network.eval()
        self._weight = next(network.parameters())
        self.reset()

    def reset(self) -> None:
        self._caches = [self._new_cache(1)]
        self._places = [(0, 0)]  # for each row: (its cache, its row in that cache)
        self._starts = [0]  # the length of each cache at the last branch

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        logits = self._read([require_ids(ids)], 0)[0]
        self._starts = [self._caches[0].length]
        return logits

    def branch(self, origins: Sequence[Origin], rows: int) -> None:
        groups: dict[tuple[bool, Origin], list[int]] = {}
        for i, origin in enumerate(origins):
            groups.setdefault((i < rows, origin), []).append(i)
        caches, starts, places = [], [], [(0, 0)] * len(origins)
        for (_, (row, n)), same in groups.items():
            old, place = self._places[row]
            cache, length = self._new_cache(len(same)), self._starts[old] + n
            cache.keys[..., :length, :] = self._caches[old].keys[:, place, None, :, :length]
            cache.values[..., :length, :] = self._caches[old].values[:, place, None, :, :length]
            cache.length = length
            for i, which in enumerate(same):
                places[which] = len(caches), i
            caches.append(cache)
            starts.append(length)
        self._caches, self._starts, self._places = caches, starts, places

    def step(self, ids: Sequence[int]) -> np.ndarray:
        places = self._places[: len(ids)]
        read: dict[int, list[list[int]]] = {}
        for id, (cache, _) in sorted(zip(ids, places, strict=True), key=lambda pair: pair[1]):
            read.setdefault(cache, []).append([id])
        logits = {cache: self._read(rows, cache) for cache, rows in read.items()}
        return np.stack([logits[cache][row] for cache, row in places])

    def _read(self, ids: list[list[int]], cache: int) -> np.ndarray:
        """Reads ids (rows, T) into that cache. Returns the logits (rows, V) after the last."""
        with self._torch.inference_mode():
            batch = self._torch.tensor(ids, device=self._weight.device)
            return self._network(batch, self._caches[cache])[:, -1].cpu().numpy()

    def _new_cache(self, rows: int) -> KVCache:
        from model.attention import KVCache

        return KVCache(self._network.config, rows, self._weight.device, self._weight.dtype)
