"""One file that holds the whole state of a run, written atomically: a resumed run equals an uninterrupted one."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from model import Storyteller
from train.run import Run

FORMAT = 5
RUN_FIELDS = ("steps", "updates", "lr", "log", "finished", "best_val", "best_step", "stale", "evaluating", "compiled")
# Settings that a resumed run may change: its length, its device, how it is evaluated, and `clip`, the fix for a loss
# that exploded.
FREE_TO_CHANGE = {"steps", "max_minutes", "device", "compile", "graph", "threads", "checkpoint_minutes", "track"} | {
    "clip",
    "eval_every",
    "eval_stories",
    "final_stories",
}


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message names the file and the fix."""


class Finished(CheckpointError):
    """More is asked of a run that is finished. `go_on` holds the flags of a run that starts from its weights."""

    def __init__(self, message: str, go_on: list[str]) -> None:
        super().__init__(message)
        self.go_on = go_on


def save(run: Run, path: Path) -> None:
    """Writes the whole state of a run to `path`."""
    state = {name: getattr(run, name) for name in RUN_FIELDS} | {
        "config": asdict(run.config),
        "fingerprint": run.text.report["fingerprint"],
        "teacher": weights_sha256(run.teacher),
        "init": weights_sha256(run.base),
        "seconds": run.seconds,
    }
    write(path, tensors_of(run), state)


def restore(run: Run, path: Path) -> dict[str, Any]:
    """Restores the saved state, and returns the settings that it was made with.

    Raises CheckpointError if the settings or the text of the run differ.
    """
    tensors, state = run.ranks.broadcast(read(path) if run.ranks.leads else None)
    try:
        require_same(run, path, state)
        for name, tensor in run.step.tensors().items():
            tensor.copy_(tensors[name])
        run.best = tensors["best"].to(run.device) if "best" in tensors else None
        torch.set_rng_state(tensors["random.cpu"])
        if run.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], run.device)
        for name in RUN_FIELDS:
            setattr(run, name, state[name])
        run.seconds_before, run.checkpoint_step = state["seconds"], run.steps
        run.last_logged = (run.log[-1]["seconds"], run.log[-1]["characters"]) if run.log else (0.0, 0)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{path} is damaged ({reason}); delete it to start again") from error
    return state["config"]


def require_same_length(run: Run, before: dict[str, Any], out: Path) -> None:
    """Raises CheckpointError if another length is asked of a finished run.

    Its learning rate has fallen to the end of its schedule, so more steps of the same run would undo that.
    """
    config = run.config
    asked, done = length_flags(config.steps, config.max_minutes), length_flags(before["steps"], before["max_minutes"])
    if asked == done or (before["steps"] and not config.max_minutes and config.steps <= run.steps):
        return
    data = [config.data] if isinstance(config.data, str) else config.data
    more = ["--preset", config.preset, "--data", *data, *(["--valid", config.valid] if config.valid else [])]
    more += ["--init", str(out), *asked, "--out", f"{out}-2"]
    done_by = f"{out} is finished: it ran {run.steps:,} steps with {' '.join(done)}, and its schedule is over"
    if not out.exists():
        raise CheckpointError(f"{done_by}; give {' '.join(done)} to write it again")
    raise Finished(f"{done_by}; to train it further, start a run from it", more)


def length_flags(steps: int | None, max_minutes: float | None) -> list[str]:
    """The flags for a length of a run."""
    flags = ["--steps", str(steps)] if steps else []
    return flags + (["--max-minutes", f"{max_minutes:g}"] if max_minutes else [])


def tensors_of(run: Run) -> dict[str, Tensor]:
    tensors = run.step.tensors() | {"random.cpu": torch.get_rng_state()}
    if run.best is not None:
        tensors["best"] = run.best
    if run.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(run.device)
    return tensors


def require_same(run: Run, path: Path, state: dict[str, Any]) -> None:
    """Raises CheckpointError if a checkpoint belongs to another run."""
    ours = json.loads(json.dumps(asdict(run.config)))  # as it comes back from a file
    for name, theirs in state["config"].items():
        if name not in FREE_TO_CHANGE and ours.get(name) != theirs:
            value = "none" if theirs is None else shlex.join(theirs) if isinstance(theirs, list) else theirs
            flag = f"give --{name.replace('_', '-')} {value}"
            fix = "use the same settings" if isinstance(theirs, bool | dict) else flag
            had = f"{path} was made with {name} {theirs}, this run has {ours.get(name)}"
            raise CheckpointError(f"{had}: {fix}, or delete it to start again")
    if state["fingerprint"] != run.text.report["fingerprint"]:
        raise CheckpointError(f"{path} was made from another text: delete it to start again")
    for name, loaded in (("teacher", run.teacher), ("init", run.base)):
        ours = weights_sha256(loaded)
        if state.get(name, ours) != ours:  # an older checkpoint has no "init"
            folder = getattr(run.config, name)
            raise CheckpointError(f"{path} was made with another {name} in {folder}: delete it to start again")


def weights_sha256(storyteller: Storyteller | None) -> str | None:
    """The SHA-256 of the weights of a teacher or a base model, None without one."""
    return storyteller.hashes["model.safetensors"] if storyteller else None


def write(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Replaces `path` atomically with tensors and a state that JSON can hold. A failed write keeps the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"state": json.dumps({"format": FORMAT, **state})}
    header["sha256"] = digest(header["state"], on_host)
    try:
        with temporary.open("wb") as file:
            file.write(to_safetensors(on_host, header))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: the checkpoint was not written ({error.strerror}); free some space") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write` wrote. Raises CheckpointError if the file is damaged or has another format."""
    try:
        data = path.read_bytes()  # the library opens no path that is not UTF-8
        tensors = from_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        state = json.loads(header.get("state", "{}"))
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it to start again") from error
    found = state.get("format") if isinstance(state, dict) else None
    if isinstance(found, int) and found > FORMAT:
        fix = "use the newer version, or delete it to start again"
        raise CheckpointError(f"{path} has format {found} of a newer version, this one reads {FORMAT}: {fix}")
    if found != FORMAT:
        raise CheckpointError(f"{path} has format {found}, not {FORMAT}; delete it to start again")
    if header.get("sha256") != digest(header["state"], tensors):
        raise CheckpointError(f"{path} is not what was written (its SHA-256 differs); delete it to start again")
    return tensors, state


def digest(state: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of everything in a checkpoint. safetensors itself would not notice a flipped bit in a weight."""
    found = hashlib.sha256(state.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
