"""Artifact format 1: the names of its files, and the functions that turn their bytes into checked values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from model.config import ModelConfig
from model.sampling import short_repr
from model.vocab import Vocab

FORMAT = 1
MIB = 2**20
# The files of every artifact, with the largest size in bytes that is read.
FILES = {
    "config.json": MIB,
    "stoi.json": MIB,
    "itos.json": MIB,
    "metrics.json": MIB,
    "log.jsonl": 4 * MIB,  # about 28,000 evaluations
    "README.md": MIB,
    "model.safetensors": 1024 * MIB,
}
GRAPH = "model.onnx"  # the optional file: the same network for ONNX Runtime
DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
FIX = "restore the folder from where it came, or train the model again"


class ArtifactError(ValueError):
    """A folder is not a valid artifact. The message names the file, what is wrong with it and what to do."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The checked contents of a folder. `hashes` holds the SHA-256 of each file that config.json lists, by name.

    `graph` is the content of model.onnx. It is None if there is no such file, or if the file cannot be used: then
    `graph_trouble` says why.
    """

    folder: Path
    config: ModelConfig
    vocab: Vocab
    weights: dict[str, np.ndarray]
    metrics: dict[str, Any]
    log: list[dict[str, Any]]
    card: str
    hashes: dict[str, str]
    graph: bytes | None = None
    graph_trouble: str | None = None


def parse(folder: Path, data: Mapping[str, bytes]) -> Artifact:
    """Returns the artifact, given the bytes of its files. `folder` is only used in error messages."""
    config, hashes = parse_config(folder / "config.json", data["config.json"])
    vocab = _parse_vocab(folder, data, config.vocab_size)
    weights = _parse_weights(folder / "model.safetensors", data["model.safetensors"], config)
    metrics, log = _parse_metrics(folder, data)
    card = data["README.md"].decode(errors="replace")
    return Artifact(
        folder=folder, config=config, vocab=vocab, weights=weights, metrics=metrics, log=log, card=card, hashes=hashes
    )


def parse_config(path: Path, data: bytes) -> tuple[ModelConfig, dict[str, str]]:
    """Returns the ModelConfig, and the hashes of all other files by name, from the bytes of config.json."""
    head = _from_json(path, data)
    version, hashes = head.pop("format", None), head.pop("files", None)
    if version != FORMAT:
        raise file_error(path, f"has format {version!r}, and this program reads format {FORMAT}")
    if wrong := head.keys() ^ {field.name for field in fields(ModelConfig)}:
        raise file_error(path, f"has unknown or missing fields ({', '.join(sorted(wrong))})")
    try:
        config = ModelConfig(**head)
    except (TypeError, ValueError) as error:
        raise file_error(path, f"is refused: {error}") from error
    if not isinstance(hashes, dict):
        raise file_error(path, "has no 'files' with the SHA-256 of each file")
    if wrong := (FILES.keys() - {"config.json"} - hashes.keys()) | (hashes.keys() - FILES.keys() - {GRAPH}):
        raise file_error(path, f"lists unknown files or lacks some ({', '.join(sorted(wrong))})")
    return config, hashes


def _parse_vocab(folder: Path, data: Mapping[str, bytes], size: int) -> Vocab:
    stoi, itos = (_from_json(folder / name, data[name]) for name in ("stoi.json", "itos.json"))
    try:
        vocab = Vocab.from_stoi(stoi)
    except (TypeError, ValueError) as error:
        raise file_error(folder / "stoi.json", f"is refused: {error}") from error
    if itos != {str(id): symbol for id, symbol in enumerate(vocab.itos)}:
        raise file_error(folder / "itos.json", "is not the inverse of stoi.json")
    if len(vocab) != size:
        raise file_error(folder / "stoi.json", f"has {len(vocab)} symbols, but config.json has vocab_size {size}")
    return vocab


def _parse_metrics(folder: Path, data: Mapping[str, bytes]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns metrics.json and the lines of log.jsonl. Both must come from the same run."""
    path = folder / "metrics.json"
    metrics = _from_json(path, data["metrics.json"])
    for key, kinds in {"nats_per_character": (int, float), "parameters": (int,), "steps": (int,)}.items():
        if type(metrics.get(key)) not in kinds:
            raise file_error(path, f"needs a number as {key}, not {metrics.get(key)!r}")
    if metrics["steps"] < 1:
        raise file_error(path, f"has {metrics['steps']} steps: this model was never trained")
    log = [_parse_line(folder / "log.jsonl", line) for line in data["log.jsonl"].splitlines()]
    last = log[-1].get("step") if log else None
    if metrics["steps"] != last:
        raise file_error(
            path, f"belongs to another run: it has {metrics['steps']} steps, but log.jsonl ends at step {last}"
        )
    return metrics, log


def _parse_line(path: Path, data: bytes) -> dict[str, Any]:
    """Returns one evaluation: values by name. Nested values are refused: in memory they take many times their size."""
    line = _from_json(path, data)
    if not line or any(isinstance(value, list | dict) for value in line.values()):
        raise file_error(path, "has a line that is not an evaluation: an object of numbers by name")
    return line


def _parse_weights(path: Path, data: bytes, config: ModelConfig) -> dict[str, np.ndarray]:
    """Returns the arrays by name, float16 or float32, with exactly the names and shapes that `config` requires.

    The file must also have been saved with the same `config`.
    """
    try:
        tensors = dict(deserialize(data))
    except SafetensorError as error:
        raise file_error(path, f"is not a valid safetensors file ({error})") from error
    shapes = config.shapes()
    if wrong := shapes.keys() ^ tensors.keys():
        raise file_error(path, f"does not match config.json: a weight is unknown or missing ({min(wrong)})")
    weights = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor["shape"]) != shape:
            raise file_error(path, f"has {name} of shape {tuple(tensor['shape'])}, but config.json requires {shape}")
        if tensor["dtype"] not in DTYPES:
            raise file_error(path, f"has {name} as {tensor['dtype']}; only F16 and F32 are allowed")
        weights[name] = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(shape)
        if not np.isfinite(weights[name]).all():
            raise file_error(path, f"has NaN or infinity in {name}")
    # No hash covers config.json, and a config with other heads, loops or context can have the same shapes.
    head = _from_json(path, data[8 : 8 + int.from_bytes(data[:8], "little")])
    if head.get("__metadata__", {}).get("config") != config_json(config):
        raise file_error(path.with_name("config.json"), f"is not the config that {path.name} was saved with")
    return weights


def config_json(config: ModelConfig) -> str:
    """Returns the config as JSON, as it is stored in the header of the weight file."""
    return json.dumps(config.to_dict(), sort_keys=True)


def _from_json(path: Path, data: bytes) -> dict[str, Any]:
    """Returns the JSON object in `data`. Refuses numbers too large for a float, NaN and infinity (not valid JSON)."""
    try:
        value = json.loads(data, parse_int=_finite_int, parse_float=_finite_float, parse_constant=_finite_float)
    except (ValueError, RecursionError) as error:
        raise file_error(path, f"is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise file_error(path, "does not hold a JSON object")
    return value


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{short_repr(text)} is not a finite number")
    return number


def _finite_int(text: str) -> int:
    _finite_float(text)
    return int(text)


def file_error(path: Path, trouble: str) -> ArtifactError:
    """Returns the error that `path` has this problem, with the fix."""
    return ArtifactError(f"{path} {trouble}; {FIX}")
