"""Artifact format 1: which files there are, and their bytes as checked values."""

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
from model.sampling import shown
from model.vocab import Vocab

FORMAT = 1
MIB = 2**20
# The files of every artifact, with the most bytes that a reader takes.
FILES = {
    "config.json": MIB,
    "stoi.json": MIB,
    "itos.json": MIB,
    "metrics.json": MIB,
    "log.jsonl": 4 * MIB,  # some 28,000 evaluations
    "README.md": MIB,
    "model.safetensors": 1024 * MIB,
}
GRAPH = "model.onnx"  # the optional file: the same network for ONNX Runtime
DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
MEND = "restore the folder from where it came, or train the model again"


class ArtifactError(ValueError):
    """A folder is no sound artifact: the message names the file, what is wrong with it and what to do."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The checked contents of a folder; `hashes` is the SHA-256 of each file that config.json lists, by name.

    `graph` is the model.onnx. It is None where there is none, and where it cannot be used: `graph_trouble` says why.
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
    """The artifact out of the bytes of its files; `folder` is only named in errors."""
    config, hashes = parse_head(folder / "config.json", data["config.json"])
    vocab = _parse_vocab(folder, data, config.vocab_size)
    weights = _parse_weights(folder / "model.safetensors", data["model.safetensors"], config)
    metrics, log = _parse_metrics(folder, data)
    card = data["README.md"].decode(errors="replace")
    return Artifact(
        folder=folder, config=config, vocab=vocab, weights=weights, metrics=metrics, log=log, card=card, hashes=hashes
    )


def parse_head(path: Path, data: bytes) -> tuple[ModelConfig, dict[str, str]]:
    """The ModelConfig and the hash of every other file, out of config.json."""
    head = _from_json(path, data)
    version, hashes = head.pop("format", None), head.pop("files", None)
    if version != FORMAT:
        raise broken(path, f"has format {version!r}, and this program reads format {FORMAT}")
    if wrong := head.keys() ^ {field.name for field in fields(ModelConfig)}:
        raise broken(path, f"has unknown or missing fields ({', '.join(sorted(wrong))})")
    try:
        config = ModelConfig(**head)
    except (TypeError, ValueError) as error:
        raise broken(path, f"is refused: {error}") from error
    if not isinstance(hashes, dict):
        raise broken(path, "has no 'files' with the SHA-256 of each file")
    if wrong := (FILES.keys() - {"config.json"} - hashes.keys()) | (hashes.keys() - FILES.keys() - {GRAPH}):
        raise broken(path, f"lists unknown files or lacks some ({', '.join(sorted(wrong))})")
    return config, hashes


def _parse_vocab(folder: Path, data: Mapping[str, bytes], size: int) -> Vocab:
    stoi, itos = (_from_json(folder / name, data[name]) for name in ("stoi.json", "itos.json"))
    try:
        vocab = Vocab.from_stoi(stoi)
    except (TypeError, ValueError) as error:
        raise broken(folder / "stoi.json", f"is refused: {error}") from error
    if itos != {str(id): symbol for id, symbol in enumerate(vocab.itos)}:
        raise broken(folder / "itos.json", "is not the inverse of stoi.json")
    if len(vocab) != size:
        raise broken(folder / "stoi.json", f"has {len(vocab)} symbols, config.json has vocab_size {size}")
    return vocab


def _parse_metrics(folder: Path, data: Mapping[str, bytes]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """metrics.json and the lines of log.jsonl, which must be of the same run."""
    path = folder / "metrics.json"
    metrics = _from_json(path, data["metrics.json"])
    for key, kinds in {"nats_per_character": (int, float), "parameters": (int,), "steps": (int,)}.items():
        if type(metrics.get(key)) not in kinds:
            raise broken(path, f"needs a number as {key}, not {metrics.get(key)!r}")
    if metrics["steps"] < 1:
        raise broken(path, f"has {metrics['steps']} steps: this model was never trained")
    log = [_parse_line(folder / "log.jsonl", line) for line in data["log.jsonl"].splitlines()]
    last = log[-1].get("step") if log else None
    if metrics["steps"] != last:
        raise broken(path, f"is of another run: it has {metrics['steps']} steps, log.jsonl ends at step {last}")
    return metrics, log


def _parse_line(path: Path, data: bytes) -> dict[str, Any]:
    """One evaluation: numbers by their names. What is nested would take many times the file's size."""
    line = _from_json(path, data)
    if not line or any(isinstance(value, list | dict) for value in line.values()):
        raise broken(path, "has a line that is no evaluation: numbers by their names")
    return line


def _parse_weights(path: Path, data: bytes, config: ModelConfig) -> dict[str, np.ndarray]:
    """The arrays by name, float16 or float32, of exactly the names and shapes that `config` asks for.

    They must also have been saved with this very `config`.
    """
    try:
        tensors = dict(deserialize(data))
    except SafetensorError as error:
        raise broken(path, f"is no sound safetensors file ({error})") from error
    shapes = config.shapes()
    if wrong := shapes.keys() ^ tensors.keys():
        raise broken(path, f"does not belong to config.json: it has unknown weights or lacks some ({min(wrong)})")
    weights = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor["shape"]) != shape:
            raise broken(path, f"has {name} of shape {tuple(tensor['shape'])}, config.json asks for {shape}")
        if tensor["dtype"] not in DTYPES:
            raise broken(path, f"has {name} as {tensor['dtype']}, not as F16 or F32")
        weights[name] = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(shape)
        if not np.isfinite(weights[name]).all():
            raise broken(path, f"has NaN or infinity in {name}")
    # No hash covers config.json, and other heads, loops or context would fit the same shapes.
    head = _from_json(path, data[8 : 8 + int.from_bytes(data[:8], "little")])
    if head.get("__metadata__", {}).get("config") != canonical(config):
        raise broken(path.with_name("config.json"), f"is not the one that {path.name} was saved with")
    return weights


def canonical(config: ModelConfig) -> str:
    """The config as it is noted beside the weights."""
    return json.dumps(config.to_dict(), sort_keys=True)


def _from_json(path: Path, data: bytes) -> dict[str, Any]:
    """The object in `data`. Numbers that no float reaches are refused, as are NaN and infinity, which JSON has not."""
    try:
        value = json.loads(data, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise broken(path, f"is no sound JSON ({error})") from error
    if not isinstance(value, dict):
        raise broken(path, "holds no JSON object")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no finite number")
    return number


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def broken(path: Path, trouble: str) -> ArtifactError:
    return ArtifactError(f"{path} {trouble}; {MEND}")
