"""Compiles docs/loops.c and decodes with it: llama2.c's arithmetic on the weights of a gpt.

Shapes: L applications of a block, S positions in the cache, C width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from model.config import ROPE_THETA
from model.decoder import CachingDecoder
from model.storyteller import Storyteller

SOURCE, LIBRARY = Path(__file__).with_suffix(".c"), "loops.so"
COMPILERS = ("gcc", "clang", "cc")  # the first of these that is installed
# llama2.c has -Ofast, which is -O3 and -ffast-math.
FLAGS = ("-O3", "-ffast-math", "-march=native", "-shared", "-fPIC")
EPSILON = 1e-6  # model.gpt's NORM_EPS, without importing torch


class Shape(ctypes.Structure):
    """The struct of this name in loops.c."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("vocab", "context", "layers", "loops", "heads", "width", "hidden")),
        *((name, ctypes.c_float) for name in ("theta", "epsilon")),
    )


def compiler() -> str:
    """Returns the path of this machine's C compiler. Raises RuntimeError if there is none."""
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise RuntimeError(f"there is no C compiler ({', '.join(COMPILERS)}); install gcc")
    return found


def compiler_version() -> str:
    """Returns the name and the version of the compiler, such as gcc 12.2.0. Raises RuntimeError if there is none."""
    path = compiler()
    line = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    number = re.search(r"\d+(\.\d+)+", line)
    name = "clang" if "clang" in line else Path(path).name  # on a Mac, gcc is clang
    return f"{name} {number[0] if number else 'of unknown version'}"


def build(folder: Path) -> None:
    """Compiles loops.c into `folder`. Raises RuntimeError with the compiler's last line, or if there is no compiler."""
    command = [compiler(), *FLAGS, SOURCE, "-o", folder / LIBRARY, "-lm"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError((run.stderr.strip().splitlines() or ["the compiler failed"])[-1])


class Loops:
    """A gpt with the library that `build` wrote into `folder`. Its decoders may call it from several threads."""

    def __init__(self, storyteller: Storyteller, folder: Path) -> None:
        self.config = config = storyteller.config
        if config.architecture != "gpt":
            raise ValueError(f"loops.c computes a gpt, not a {config.architecture}")
        self.feed = ctypes.CDLL(str(folder / LIBRARY)).feed
        self.feed.restype = None
        sizes = (config.vocab_size, config.context, config.layers, config.loops, config.heads, config.width)
        self.shape = Shape(*sizes, config.hidden_width, ROPE_THETA, EPSILON)
        self.weights = np.concatenate([storyteller.weights[name].ravel() for name in config.shapes()], dtype=np.float32)


class LoopsDecoder(CachingDecoder):
    """A decoder that reads symbols one by one, as llama2.c does, a prompt too."""

    def __init__(self, loops: Loops) -> None:
        config = loops.config
        super().__init__(config.context)
        self.loops, self.length = loops, 0  # length: how many symbols the cache holds
        self.cache = np.zeros((config.layers * config.loops, 2, config.context, config.width), np.float32)
        self.output = np.empty(config.vocab_size, np.float32)
        self.arrays = [ctypes.c_void_p(each.ctypes.data) for each in (loops.weights, self.cache, self.output)]

    def reset(self) -> None:
        super().reset()
        self.length = 0

    def _append(self, ids: list[int]) -> np.ndarray:
        for id in ids:
            self.loops.feed(ctypes.byref(self.loops.shape), *self.arrays, id, self.length)
            self.length += 1
        return self.output.copy()
