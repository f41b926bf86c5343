"""What reads symbols and gives the logits of the next one; it remembers what it has read of a story.

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

from model.artifacts import GRAPH, ArtifactError, export_again, read
from model.config import ROPE_THETA, ModelConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding
    from torch import Tensor, nn


HIDDEN = -1e30  # exp of it is 0
CHUNK = 64  # symbols that a graph reads at once: where several stories are told, all wait for them, about 4 ms


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


class CachingDecoder(ABC):
    """What decoders share: the symbols that their cache holds, and what is read when one more comes than fit."""

    def __init__(self, context: int) -> None:
        self.context = context
        self._ids: list[int] = []  # what the cache holds

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        ids = checked(ids)
        kept = remembered(len(self._ids), len(ids), self.context)
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
        """Reads ids that fit into the cache after those in `_ids`; the logits (V,) after the last, a new array."""


def checked(ids: Sequence[int]) -> list[int]:
    if not ids:
        raise ValueError("a decoder reads at least one symbol; a story opens with Vocab.start")
    return list(ids)


class TorchDecoder(CachingDecoder):
    """A `Decoder` over the network (put into eval mode), on its device, with a cache that is allocated once."""

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
        """How much each position looks at each other, (T, T), rows summing to 1; `layer` and `head` count from 0."""
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
        """(1, T) on the network's device."""
        return self._torch.tensor([checked(ids)], device=self._device)


class OnnxGraph:
    """The graph of a model.onnx, opened once and shared by its decoders, from as many threads as there are stories.

    Its inputs are ids (B, T), what a `Place` holds, for a gpt the cosines and sines of all positions, and the cache,
    keys and values of each layer (B, H, S, D), into which it writes; it gives logits (B, T, V). Raises ArtifactError
    where ONNX Runtime is not installed or cannot open the graph.
    """

    def __init__(self, data: bytes, config: ModelConfig, folder: Path) -> None:
        self.config = config
        try:
            import onnxruntime
        except ImportError as error:
            path, mend = folder / GRAPH, "install it with: pip install onnxruntime"
            raise ArtifactError(f"{path} needs ONNX Runtime, which cannot be imported ({error}); {mend}") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised
        # Weights that are said to lie in files beside the graph are looked for where none can be.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one thread per story
        # They keep memory for each length of input that comes by, and are no faster.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        try:
            self.session: InferenceSession = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        except Exception as error:  # its errors have no narrower class in common
            # Its reasons name paths, and the page shows visitors what an ArtifactError says.
            logging.getLogger(__name__).warning("%s: %s", folder / GRAPH, str(error).splitlines()[0])
            raise ArtifactError(export_again(folder, "cannot be opened by ONNX Runtime")) from error
        self.inputs = {each.name for each in self.session.get_inputs()}
        if "bias" not in self.inputs:
            raise ArtifactError(export_again(folder, "was exported by an earlier version, which told no drafts"))

    def new_cache(self, length: int, rows: int = 1) -> np.ndarray:
        """Room for the keys and values of `length` symbols of each story: (2 L, B, H, length, D) of float32."""
        config = self.config
        shape = (2 * config.layers * config.loops, rows, config.heads, length, config.head_width)
        # Pages of its own, zero until they are written, go back whole; malloc keeps large pieces for the next one.
        pages = mmap.mmap(-1, 4 * math.prod(shape))
        return np.frombuffer(pages, np.float32).reshape(shape)

    def bind(self, ids: np.ndarray, place: Place, cache: np.ndarray, logits: np.ndarray) -> IOBinding:
        """The graph reading and writing these arrays where they are; the binding keeps them alive."""
        binding = self.session.io_binding()
        inputs = {"ids": ids, **vars(place)}
        if "cos" in self.inputs:
            inputs |= rotary(self.config.head_width, cache.shape[3])
        outputs = {"logits": logits}
        for slot, array in enumerate(cache):
            name = f"{('key', 'value')[slot % 2]}_{slot // 2}"
            inputs[f"past_{name}"] = outputs[f"present_{name}"] = array
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        binding.arrays = inputs, outputs  # ONNX Runtime knows no more than where they are
        return binding

    def read(self, ids: list[int], total: int, cache: np.ndarray) -> np.ndarray:
        """The logits (T, V) after each of the ids, the newest of the `total` symbols that are then in the cache."""
        logits = np.empty((1, len(ids), self.config.vocab_size), np.float32)
        inputs, place = np.array([ids], np.int64), Place(cache.shape[3], len(ids))
        place.last[0], place.positions[0] = total - 1, np.arange(total - len(ids), total)
        self.session.run_with_iobinding(self.bind(inputs, place, cache, logits))
        return logits[0]


@lru_cache(16)
def rotary(head_width: int, length: int) -> dict[str, np.ndarray]:
    """Cosine and sine of each position's angles, (length, D / 2) each."""
    pairs = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    angles = np.outer(np.arange(length, dtype=np.float32), np.float32(ROPE_THETA) ** -pairs)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


class Place:
    """Where symbols stand: arrays that a graph reads in place, those of its inputs that say so.

    `last` (B,) is where in the cache the newest symbol of each story goes, `total` () the cache's length S, `positions`
    (B, T) are those that turn keys and queries, and `bias` (1, 1, T, S) is added to what each symbol makes of those in
    the cache: 0, or `HIDDEN` for what it must not see. No symbol sees those behind it.
    """

    def __init__(self, length: int, time: int = 1, rows: int = 1) -> None:
        self.last, self.total = np.zeros(rows, np.int32), np.array(length, np.int32)
        self.positions = np.zeros((rows, time), np.int64)
        self.bias = np.zeros((1, 1, time, length), np.float32)

    def first(self, rows: int) -> Place:
        """That of the first stories alone, in the same arrays."""
        place = copy(self)
        place.last, place.positions = self.last[:rows], self.positions[:rows]
        return place


class OnnxDecoder(CachingDecoder):
    """A `Decoder` over the model.onnx of an artifact's folder, or over its open graph; it never imports torch.

    A symbol is read in buffers that are bound once: nothing is allocated and no cache is copied for it. Raises
    ArtifactError if the folder has no sound model.onnx.
    """

    def __init__(self, source: str | Path | OnnxGraph) -> None:
        self._graph = graph = source if isinstance(source, OnnxGraph) else open_graph(Path(source))
        super().__init__(graph.config.context)
        self._cache, self._place = graph.new_cache(self.context), Place(self.context)
        self._id = np.zeros((1, 1), np.int64)
        self._logits = np.zeros((1, 1, graph.config.vocab_size), np.float32)
        self._step = graph.bind(self._id, self._place, self._cache, self._logits)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        ids = checked(ids)
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
                self._graph.session.run_with_iobinding(self._step)
                logits = self._logits[0, 0]
        return logits.copy()


def chunks(ids: list[int], read: int = 0) -> Iterator[tuple[list[int], int]]:
    """What a graph reads at once of ids, and how many symbols it has read with that, if `read` came before.

    Attention is computed up to the chunk's end for every symbol in it, then masked: in a longer chunk a symbol costs
    more. Every reader cuts here, for other chunks would round otherwise.
    """
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        yield chunk, read + start + len(chunk)


def open_graph(folder: Path) -> OnnxGraph:
    """The graph of an artifact. Raises ArtifactError if it has none that is sound."""
    artifact = read(folder)
    if artifact.graph is None:
        raise ArtifactError(artifact.graph_trouble or export_again(folder, "is missing"))
    return OnnxGraph(artifact.graph, artifact.config, folder)
