"""The graph of a model.onnx: ONNX Runtime runs it on arrays that belong to the caller.

Shapes: B stories, L applications of a block, H heads, T time, S all positions in the cache, D head width, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
from collections.abc import Callable
from copy import copy
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.artifacts import GRAPH, ArtifactError, graph_error_text, read
from model.config import ROPE_THETA, ModelConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RUNTIME = (1, 23)  # the first version of ONNX Runtime that opens our graphs: it has sinks in GroupQueryAttention
INSTALL = "install it with: .venv/bin/python -m pip install -r requirements-page.txt"
MASKED = -1e30  # added to a score, it makes the attention weight 0


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
            trouble = f"needs ONNX Runtime, which cannot be imported ({error})"
            raise ArtifactError(f"{folder / GRAPH} {trouble}; {INSTALL}") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # log nothing: errors are raised
        # A graph may refer to weights in other files. Search for them where no file can be: they must not be read.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one thread per story
        options.enable_cpu_mem_arena = False  # it keeps memory for the longest input, and makes nothing faster

        def opened(*, plan: bool) -> InferenceSession:
            options.enable_mem_pattern = plan
            return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])

        try:
            # A memory plan makes a step faster, but ONNX Runtime keeps one for every shape of the inputs, some 60 kB.
            # Steps of one symbol have few shapes, other reads have thousands.
            self._session, self._step_session = opened(plan=False), opened(plan=True)
        except Exception as error:  # ONNX Runtime's errors have no narrower common class
            trouble = f"cannot be opened by ONNX Runtime {onnxruntime.__version__}"
            if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < RUNTIME:
                needed = f"it needs {'.'.join(map(str, RUNTIME))} or newer"
                raise ArtifactError(f"{folder / GRAPH} {trouble}; {needed}; {INSTALL}") from error
            # Its messages contain paths of this machine, and the page shows the text of an ArtifactError to visitors.
            logging.getLogger(__name__).warning("%s: %s", folder / GRAPH, str(error).splitlines()[0])
            raise ArtifactError(graph_error_text(folder, trouble)) from error
        self.inputs = {each.name for each in self._session.get_inputs()}
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

    def bind(self, ids: np.ndarray, place: PositionInputs, cache: np.ndarray, logits: np.ndarray) -> Callable[[], None]:
        """Returns a function that runs the graph on these arrays. It reads and writes them in place, and keeps them."""
        session = self._step_session if ids.shape[1] == 1 else self._session
        binding = session.io_binding()
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
        return partial(session.run_with_iobinding, binding)

    def read(self, ids: list[int], total: int, cache: np.ndarray) -> np.ndarray:
        """Reads ids and returns the logits (T, V) after each of them.

        `total` is the number of symbols in the cache afterwards, these ids included.
        """
        logits = np.empty((1, len(ids), self.config.vocab_size), np.float32)
        inputs, place = np.array([ids], np.int64), PositionInputs(cache.shape[3], len(ids))
        place.last[0], place.positions[0] = total - 1, np.arange(total - len(ids), total)
        self.bind(inputs, place, cache, logits)()
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


def open_graph(folder: Path) -> OnnxGraph:
    """Opens the graph of an artifact. Raises ArtifactError if it has no valid one."""
    artifact = read(folder)
    if artifact.graph is None:
        raise ArtifactError(artifact.graph_trouble or graph_error_text(folder, "is missing"))
    return OnnxGraph(artifact.graph, artifact.config, folder)
