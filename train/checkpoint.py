"""One file that holds a whole run, written atomically, so that a resumed run is the uninterrupted one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message names the file and the mend."""


def write(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Replaces `path` in one step with tensors and JSON-able state; a failed write leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    header = {"state": json.dumps({"format": FORMAT, **state})}
    try:
        with temporary.open("wb") as file:
            file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: the checkpoint was not written ({error.strerror}); free some space") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. Raises CheckpointError for a file that is damaged or of another format."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads((file.metadata() or {}).get("state", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it to start anew") from error
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {state.get('format')}, not {FORMAT}; delete it to start anew")
    return tensors, state


def optimiser_tensors(optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the optimisers' state, by the number of the optimiser and of the parameter and by name."""
    return {
        f"optimiser.{number}.{parameter}.{name}": value
        for number, optimiser in enumerate(optimisers)
        for parameter, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimisers(optimisers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimiser_tensors`; learning rates and the like stay as the optimisers have them."""
    for number, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, *rest = key.split(".")
            if kind == "optimiser" and rest[0] == str(number):
                state.setdefault(int(rest[1]), {})[rest[2]] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
