"""A trained model as a folder of plain files: saved completely or not at all; every file is checked when it is read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from model.atomic import replace_folder
from model.config import ModelConfig
from model.parse import (
    FILES,
    FIX,
    FORMAT,
    GRAPH,
    MIB,
    Artifact,
    ArtifactError,
    config_json,
    file_error,
    parse,
    parse_config,
)
from model.vocab import Vocab

GRAPH_LIMIT = 1024 * MIB
LFS_POINTER = b"version https://git-lfs"  # how a file begins that Git has not fetched from its large file storage
DEFAULT = "default"  # a file beside the artifacts: one line, the name of the one that the page opens with
_HALVES = {code: f"\\\\u{code:x}" for code in range(0xD800, 0xE000)}  # in JSON a backslash is written twice
TEXTS = (".json", ".jsonl", ".md")
CHOOSE_DEFAULT = "choose one with: .venv/bin/python -m model --default NAME"


def save(
    folder: str | Path,
    *,
    config: ModelConfig,
    vocab: Vocab,
    weights: Mapping[str, np.ndarray],
    metrics: Mapping[str, Any],
    log: list[dict[str, Any]],
    card: str,
) -> None:
    """Replaces `folder` by a new artifact, in one step (`atomic.replace_folder`).

    The weights keep their precision, float16 or float32. An old model.onnx in `folder` is removed, because it was made
    of other weights. Files that do not belong to an artifact stay.
    Raises ArtifactError if the parts do not fit together or cannot be written; then `folder` is unchanged.
    """
    folder = Path(folder).resolve()  # if it is a link, replace the folder that it points to
    # safetensors would silently write wrong numbers for an array that is not contiguous.
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    contents = {
        "stoi.json": _to_json("stoi.json", vocab.stoi),
        "itos.json": _to_json("itos.json", dict(enumerate(vocab.itos))),
        "metrics.json": _to_json("metrics.json", metrics),
        "log.jsonl": b"".join(_to_json("log.jsonl", line, indent=None) for line in log),
        "README.md": card.encode(),
        "model.safetensors": to_safetensors(arrays, metadata={"config": config_json(config)}),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    head = {"format": FORMAT, **config.to_dict(), "files": hashes}
    contents["config.json"] = _to_json("config.json", head)
    for name, data in contents.items():
        if len(data) > FILES[name]:  # `read` would refuse it
            raise ArtifactError(
                f"{name} would have {len(data):,} bytes; at most {FILES[name]:,} are allowed: make it shorter"
            )
    parse(folder, contents)
    _write_folder(folder, contents)


def add_graph(folder: str | Path, graph: bytes, weights_sha256: str) -> None:
    """Writes `graph` into `folder` as model.onnx, in one step.

    `weights_sha256` is the hash of the weights that it was made of. config.json then lists the graph's hash. Raises
    ArtifactError if `folder` holds other weights or cannot be written; then `folder` is unchanged.
    """
    folder = Path(folder).resolve()
    if read(folder).hashes["model.safetensors"] != weights_sha256:
        raise ArtifactError(graph_error_text(folder, "was made of other weights than model.safetensors holds"))
    _replace_files(folder, {GRAPH: graph})


def add_figures(folder: str | Path, figures: Mapping[str, Any], card: str) -> None:
    """Adds figures that were measured after the run to metrics.json, and replaces the model card, in one step.

    Raises ArtifactError if they cannot be written; then `folder` is unchanged.
    """
    folder = Path(folder).resolve()
    metrics = dict(read(folder).metrics) | figures
    _replace_files(folder, {"metrics.json": _to_json("metrics.json", metrics), "README.md": card.encode()})


def _replace_files(folder: Path, renewed: Mapping[str, bytes]) -> None:
    """Replaces some files of an artifact, and updates their hashes in config.json."""
    contents = _read_files(folder)
    head = json.loads(contents["config.json"])
    if GRAPH in head["files"] and GRAPH not in renewed:
        contents[GRAPH] = read_file(folder / GRAPH, limit=GRAPH_LIMIT)
    head["files"] |= {name: hashlib.sha256(data).hexdigest() for name, data in renewed.items()}
    _write_folder(folder, contents | renewed | {"config.json": _to_json("config.json", head)})


def read(folder: str | Path, *, links: bool = False) -> Artifact:
    """Returns the contents of `folder`. Every file is checked, and no code in it is run.

    Files that are links are refused, unless `links` is true: the Hub's cache consists of links.
    Raises ArtifactError. If another process replaces the folder during the read, it is read again: the result is all
    old or all new.
    """
    folder = Path(folder)
    while True:
        before = _identity(folder)
        try:
            artifact = parse(folder, _read_files(folder, links))
            graph, trouble = _read_graph(folder, artifact.hashes, links)
            return replace(artifact, graph=graph, graph_trouble=trouble)
        except ArtifactError:
            if _identity(folder) == before:
                raise


def read_default(folder: str | Path) -> str | None:
    """Returns the name in the file `default` of a folder of artifacts; None if there is no file or it is empty."""
    path = Path(folder) / DEFAULT
    text = read_file(path, limit=MIB).decode(errors="replace") if path.is_file() else ""
    return re.split(r"[\r\n]", text, maxsplit=1)[0].strip()[:255] or None


def write_default(folder: str | Path, name: str) -> str:
    """Makes the page open with an artifact of this folder, given by its name or its path. Returns its name.

    Raises ArtifactError if there is no such artifact, or if the file `default` cannot be written.
    """
    folder, given = Path(folder), Path(name)
    chosen = folder / given.name if given.parent in (Path(), folder) else given
    if chosen.parent != folder or chosen.name.startswith("."):
        raise ArtifactError(f"default ({name!r}) must be the name of a model in {folder}/")
    read(chosen)
    new = folder / f".{DEFAULT}.new"
    try:
        new.write_text(f"{chosen.name}\n", encoding="utf-8")
        new.replace(folder / DEFAULT)  # so that a reader never sees half of it
    except OSError as error:
        fix = "make its folder writable, or move away a folder of that name"
        raise ArtifactError(f"{folder / DEFAULT} cannot be written ({error.strerror}); {fix}") from error
    return chosen.name


def file_bytes(folder: str | Path) -> dict[str, bytes]:
    """Returns the checked bytes of each file of an artifact by name, to publish them.

    Raises ArtifactError, as `read` does, and also for a model.onnx that cannot be used; `read` only reports that in
    `graph_trouble`.
    """
    folder = Path(folder)
    files = _read_files(folder)
    graph, trouble = _read_graph(folder, parse(folder, files).hashes)
    if trouble:
        raise ArtifactError(trouble)
    return files if graph is None else files | {GRAPH: graph}


def read_file(path: Path, *, limit: int, sha256: str | None = None, links: bool = False) -> bytes:
    """Returns the bytes of a plain file; of a text, with the line ends that it was saved with.

    Raises ArtifactError if the file has more than `limit` bytes, or not the hash `sha256` where one is given.
    """
    try:
        info = path.stat() if links else path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise file_error(path, "is not a plain file")
        if info.st_size > limit:
            raise file_error(path, f"has {info.st_size:,} bytes; at most {limit:,} are allowed")
        with path.open("rb") as file:
            data = file.read(info.st_size)  # not `limit`: Python would allocate that many bytes
    except FileNotFoundError:
        raise file_error(path, "is missing") from None
    except OSError as error:
        raise file_error(path, f"cannot be read ({error.strerror})") from error
    if data.startswith(LFS_POINTER):
        raise ArtifactError(f"{path} is a Git LFS pointer; fetch the file itself with: git lfs pull")
    # The length of a safetensors header may begin with the same byte, but the header itself begins with a brace.
    if path.suffix == ".safetensors" and data.startswith((b"\x80", b"PK\x03\x04")) and data[8:9] != b"{":
        raise ArtifactError(f"{path} is a pickle, which can run code; save the weights as safetensors")
    if path.suffix in TEXTS and hashlib.sha256(data).hexdigest() != sha256:
        data = data.replace(b"\r\n", b"\n")  # Git for Windows checks texts out with these line ends
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise file_error(path, "is not the file that config.json was saved with (its SHA-256 differs)")
    return data


def graph_error_text(folder: Path, trouble: str) -> str:
    """Returns the text of an error about a model.onnx: what is wrong with it, and how to write it again."""
    return f"{folder / GRAPH} {trouble}; write it with: .venv/bin/python -m train.export {folder} --to onnx"


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    try:
        replace_folder(folder, contents, owned={*FILES, GRAPH})
    except OSError as error:
        reason = error.strerror or error
        raise ArtifactError(f"{folder} cannot be saved ({reason}); make room or choose another folder") from error


def _identity(folder: Path) -> tuple[int, int] | None:
    """Returns a value that changes when another folder replaces this one; None if there is no such folder."""
    try:
        info = folder.stat()
    except (OSError, ValueError):  # ValueError: no operating system accepts such a name
        return None
    return info.st_ino, info.st_mtime_ns


def _read_files(folder: Path, links: bool = False) -> dict[str, bytes]:
    """Returns the bytes of each of FILES, checked against the hashes in config.json."""
    if not os.path.isdir(folder):
        raise ArtifactError(f"{folder} is not a folder; give one that holds a config.json, such as artifacts/pocket")
    path = folder / "config.json"
    data = {path.name: read_file(path, limit=FILES[path.name], links=links)}
    config, hashes = parse_config(path, data[path.name])
    weights_limit = MIB + 4 * sum(math.prod(shape) for shape in config.shapes().values())
    for name, sha256 in hashes.items():
        if name in FILES:
            limit = min(FILES[name], weights_limit) if name == "model.safetensors" else FILES[name]
            data[name] = read_file(folder / name, limit=limit, sha256=sha256, links=links)
    return data


def _read_graph(folder: Path, hashes: Mapping[str, str], links: bool = False) -> tuple[bytes | None, str | None]:
    """Returns (model.onnx, None), or (None, why it cannot be used), or (None, None) if there is none."""
    path = folder / GRAPH
    if GRAPH not in hashes and not path.exists():
        return None, None
    try:
        return read_file(path, limit=GRAPH_LIMIT, sha256=hashes.get(GRAPH, ""), links=links), None
    except ArtifactError as error:
        return None, graph_error_text(folder, str(error).removeprefix(f"{path} ").removesuffix(f"; {FIX}"))


def utf8_safe(value: Any) -> Any:
    """Returns a JSON value with all its texts writable as UTF-8.

    A byte of a file name that is not valid UTF-8 becomes a replacement character. Any other half of a surrogate pair,
    as a text that was cut off may hold, becomes its escape, such as \\ud83d.
    """
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(re.sub("[\udc80-\udcff]", "\ufffd", text).translate(_HALVES))


def _to_json(name: str, value: object, indent: int | None = 1) -> bytes:
    try:
        return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{name} cannot be written ({error}); give it plain and finite values") from error
