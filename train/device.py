"""The device that a run computes on."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from train.presets import TrainConfig

# How devices that have no error of their own for it say that memory is short: mps, and the CPU
SHORT = ("out of memory", "can't allocate memory", "not enough memory")
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # <malloc.h>; in bytes


class OutOfMemory(ValueError):
    """A run does not fit into the memory of its device; the message says what might."""


@contextmanager
def memory_explained(config: TrainConfig, ranks: int = 1) -> Iterator[None]:
    """Raises OutOfMemory, with smaller settings to try, in the place of what the device says when it is full."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error).lower()
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(words in said for words in SHORT):
            raise
        batch, context = config.batch_size, config.model.context
        tries = [f"--context {context // 2}"] if context > 1 else []
        if batch % (2 * ranks) == 0:
            tries.insert(0, f"--batch-size {batch // 2} --accumulate {2 * config.accumulate} (steps of the same size)")
        raise OutOfMemory(
            f"out of memory on {config.device}: {batch} windows (batch_size) of {context} characters (context) and "
            f"{config.model.layers} layers of width {config.model.width} do not fit; try {' or '.join(tries)}"
        ) from error


def pick_device(name: str) -> torch.device:
    """The device of that name; auto takes cuda, then mps, then the CPU. Raises ValueError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device ({name}) is not available: {str(error).splitlines()[0]}") from error


def set_up(config: TrainConfig) -> torch.device:
    """The device of a run, set up for it: threads, and TF32 where float32 need not be exact: not for the classics."""
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams, events and graphs are those of the current one
        if config.model.architecture != "classic":
            torch.set_float32_matmul_precision("high")
    if device.type == "cpu" and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # glibc would give the pages of a step back and fetch them again for the next: a quarter of its time
        libc.mallopt(M_MMAP_THRESHOLD, 2**26), libc.mallopt(M_TRIM_THRESHOLD, 2**30)
    return device


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
