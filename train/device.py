"""The device that a run computes on."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from train.presets import TrainConfig

# What mps and the CPU say when memory runs out; they have no exception class for it
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # from <malloc.h>; their values are in bytes


class OutOfMemory(ValueError):
    """A run does not fit into the memory of its device. The message suggests smaller settings."""


@contextmanager
def memory_explained(config: TrainConfig, ranks: int = 1) -> Iterator[None]:
    """Turns the error of a device without free memory into OutOfMemory, which suggests smaller settings."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error).lower()
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
            words in said for words in OUT_OF_MEMORY
        ):
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
    """The device with that name. auto means cuda, else mps, else the CPU. Raises ValueError if it is not available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device ({name}) is not available: {str(error).splitlines()[0]}") from error


def set_up(config: TrainConfig) -> torch.device:
    """Sets up the device of a run and returns it: CPU threads, and TF32 on CUDA unless the model is a classic one."""
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams, events and graphs belong to the current device
        if config.model.architecture != "classic":
            torch.set_float32_matmul_precision("high")
    if device.type == "cpu" and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # otherwise glibc returns the memory of each step and requests it again for the next: a quarter of the step
        libc.mallopt(M_MMAP_THRESHOLD, 2**26), libc.mallopt(M_TRIM_THRESHOLD, 2**30)
    return device


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
