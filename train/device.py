"""The device that a run computes on."""

from __future__ import annotations

import platform

import torch


def pick_device(name: str) -> torch.device:
    """The device of that name; auto takes cuda, then mps, then the CPU. Raises ValueError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device ({name}) is not available: {str(error).splitlines()[0]}") from error


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
