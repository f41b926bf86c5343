"""Decoders read the symbols of a story and return the logits of the next one. They remember what they have read.

Shapes: B stories, L applications of a block, H heads, T time, D head width, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from model.artifacts import GRAPH, ArtifactError, graph_error_text, read
from model.config import ROPE_THETA, ModelConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding
    from torch import Tensor, nn


MASKED = -1e30  # added to a score, it makes the attention weight 0
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


class OnnxGraph:
    """The graph of a model.onnx. It is opened once and shared by its decoders, which may call it from several threads.

    Its inputs are ids (B, T), the arrays of a `PositionInputs`, the cosines and sines of all positions (gpt only), and
    the cache: keys and values of each layer (B, H, S, D). It writes into the cache, and returns logits (B, T, V).
    Raises ArtifactError if ONNX Runtime is not installed or cannot open the graph.
    """

    def __init__(self, data: bytes, config: ModelConfig, folder: Path) -> None:
        self.config = config
        try:
            import onnxruntime
        except ImportError as error:
            path, fix = folder / GRAPH, "install it with: .venv/bin/python -m pip install -r requirements-page.txt"
            raise ArtifactError(f"{path} needs ONNX Runtime, which cannot be imported ({error}); {fix}") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # log nothing: errors are raised
        # A graph may refer to weights in other files. Search for them where no file can be: they must not be read.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one thread per story
        # Both keep memory for every input length that was ever used, and make nothing faster.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        try:
            self.session: InferenceSession = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no narrower common class
            # Its messages contain paths of this machine, and the page shows the text of an ArtifactError to visitors.
            logging.getLogger(__name__).warning("%s: %s", folder / GRAPH, str(error).splitlines()[0])
            raise ArtifactError(graph_error_text(folder, "cannot be opened by ONNX Runtime")) from error
        self.inputs = {each.name for each in self.session.get_inputs()}
        if "bias" not in self.inputs:
            raise ArtifactError(
                graph_error_text(folder, "was exported by an earlier version, without support for drafts")
            )

    def new_cache(self, length: int, rows: int = 1) -> np.ndarray:
        """Returns a cache for keys and values of `length` symbols of each story: (2 L, B, H, length, D), float32."""
        config = self.config
        shape = (2 * config.layers * config.loops, rows, config.heads, length, config.head_width)
        # Memory from mmap takes no space until it is written, and is freed completely; malloc keeps large blocks.
        pages = mmap.mmap(-1, 4 * math.prod(shape))
        return np.frombuffer(pages, np.float32).reshape(shape)

    def bind(self, ids: np.ndarray, place: PositionInputs, cache: np.ndarray, logits: np.ndarray) -> IOBinding:
        """Binds the graph to these arrays, which it reads and writes in place. The binding keeps them alive."""
        binding = self.session.io_binding()
        inputs = {"ids": ids, **vars(place)}
        if "cos" in self.inputs:
            inputs |= rotary_tables(self.config.head_width, cache.shape[3])
        outputs = {"logits": logits}
        for slot, array in enumerate(cache):
            name = f"{('key', 'value')[slot % 2]}_{slot // 2}"
            inputs[f"past_{name}"] = outputs[f"present_{name}"] = array
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        binding.arrays = inputs, outputs  # ONNX Runtime only holds their addresses
        return binding

    def read(self, ids: list[int], total: int, cache: np.ndarray) -> np.ndarray:
        """Reads ids and returns the logits (T, V) after each of them.

        `total` is the number of symbols in the cache afterwards, these ids included.
        """
        logits = np.empty((1, len(ids), self.config.vocab_size), np.float32)
        inputs, place = np.array([ids], np.int64), PositionInputs(cache.shape[3], len(ids))
        place.last[0], place.positions[0] = total - 1, np.arange(total - len(ids), total)
        self.session.run_with_iobinding(self.bind(inputs, place, cache, logits))
        return logits[0]


@lru_cache(16)
def rotary_tables(head_width: int, length: int) -> dict[str, np.ndarray]:
    """Returns the cosine and the sine of each position's angles, (length, D / 2) each."""
    pairs = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    angles = np.outer(np.arange(length, dtype=np.float32), np.float32(ROPE_THETA) ** -pairs)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


class PositionInputs:
    """The inputs of a graph that give the positions of the symbols; the graph reads these arrays in place.

    `last` (B,) is the position in the cache of each story's newest symbol. `total` () is the cache's length S.
    `positions` (B, T) are the positions for the rotation of keys and queries. `bias` (1, 1, T, S) is added to the
    attention scores: 0, or `MASKED` for a position that a symbol must not see. No symbol sees later ones in any case.
    """

    def __init__(self, length: int, time: int = 1, rows: int = 1) -> None:
        self.last, self.total = np.zeros(rows, np.int32), np.array(length, np.int32)
        self.positions = np.zeros((rows, time), np.int64)
        self.bias = np.zeros((1, 1, time, length), np.float32)

    def first_rows(self, rows: int) -> PositionInputs:
        """Returns the inputs of only the first stories; they share these arrays."""
        place = copy(self)
        place.last, place.positions = self.last[:rows], self.positions[:rows]
        return place


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
        self._binding = graph.bind(self._id, self._place, self._cache, self._logits)

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
                self._graph.session.run_with_iobinding(self._binding)
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


def open_graph(folder: Path) -> OnnxGraph:
    """Opens the graph of an artifact. Raises ArtifactError if it has no valid one."""
    artifact = read(folder)
    if artifact.graph is None:
        raise ArtifactError(artifact.graph_trouble or graph_error_text(folder, "is missing"))
    return OnnxGraph(artifact.graph, artifact.config, folder)
