"""A trained model as a folder of plain files: saved whole or not at all, checked file by file when read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from model.atomic import replace_folder
from model.config import ModelConfig
from model.parse import FILES, FORMAT, GRAPH, MEND, MIB, Artifact, ArtifactError, broken, canonical, parse, parse_head
from model.vocab import Vocab

GRAPH_LIMIT = 1024 * MIB
DEFAULT = "default"  # a file beside the artifacts: one line, the name of the one that the page opens with
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
    """Puts an artifact in the place of `folder`, in one step (`atomic.replace_folder`).

    The weights keep their precision, float16 or float32. A model.onnx of `folder` goes, for it is of other weights;
    files that are no part of an artifact stay.
    Raises ArtifactError if the parts do not fit each other or cannot be written; `folder` is then as it was.
    """
    folder = Path(folder).resolve()  # of a link, the folder that it points to is replaced
    # Of an array that is not contiguous, safetensors would silently write other numbers.
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    contents = {
        "stoi.json": _to_json("stoi.json", vocab.stoi),
        "itos.json": _to_json("itos.json", dict(enumerate(vocab.itos))),
        "metrics.json": _to_json("metrics.json", metrics),
        "log.jsonl": b"".join(_to_json("log.jsonl", line, indent=None) for line in log),
        "README.md": card.encode(),
        "model.safetensors": to_safetensors(arrays, metadata={"config": canonical(config)}),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    head = {"format": FORMAT, **config.to_dict(), "files": hashes}
    contents["config.json"] = _to_json("config.json", head)
    for name, data in contents.items():
        if len(data) > FILES[name]:  # nobody could read it
            raise ArtifactError(f"{name} would have {len(data):,} bytes, of {FILES[name]:,} allowed; make it shorter")
    parse(folder, contents)
    _replace(folder, contents)


def add_graph(folder: str | Path, graph: bytes, weights_sha256: str) -> None:
    """Puts `graph`, made of the weights with this hash, into `folder` as model.onnx, in one step.

    config.json then lists its hash. Raises ArtifactError if `folder` holds other weights or cannot be written; it is
    then as it was.
    """
    folder = Path(folder).resolve()
    if read(folder).hashes["model.safetensors"] != weights_sha256:
        raise ArtifactError(export_again(folder, "was made of other weights than model.safetensors holds"))
    _renew(folder, {GRAPH: graph})


def add_figures(folder: str | Path, figures: Mapping[str, Any], card: str) -> None:
    """Adds to the metrics.json of `folder` what was measured after its run, and renews its card, in one step.

    Raises ArtifactError if they cannot be written; `folder` is then as it was.
    """
    folder = Path(folder).resolve()
    metrics = dict(read(folder).metrics) | figures
    _renew(folder, {"metrics.json": _to_json("metrics.json", metrics), "README.md": card.encode()})


def _renew(folder: Path, renewed: Mapping[str, bytes]) -> None:
    """Replaces some files of an artifact; config.json then lists their hashes."""
    contents = _read_files(folder)
    head = json.loads(contents["config.json"])
    if GRAPH in head["files"] and GRAPH not in renewed:
        contents[GRAPH] = read_file(folder / GRAPH, limit=GRAPH_LIMIT)
    head["files"] |= {name: hashlib.sha256(data).hexdigest() for name, data in renewed.items()}
    _replace(folder, contents | renewed | {"config.json": _to_json("config.json", head)})


def read(folder: str | Path, *, links: bool = False) -> Artifact:
    """The contents of `folder`, every file checked; nothing in it is run.

    Files that are links are refused unless `links`: the Hub's cache is made of them.
    Raises ArtifactError. A folder that is replaced meanwhile is read again, so that one gets the old or the new.
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
    """The name in the file `default` of a folder of artifacts; None without the file, or where it is empty."""
    path = Path(folder) / DEFAULT
    return read_file(path, limit=MIB).decode(errors="replace").strip() or None if path.is_file() else None


def write_default(folder: str | Path, name: str) -> str:
    """Makes an artifact of this folder, given by its name or its path, the one that the page opens with; its name.

    Raises ArtifactError where there is no such artifact, or it cannot be read.
    """
    folder, given = Path(folder), Path(name)
    chosen = folder / given.name if given.parent in (Path(), folder) else given
    if chosen.parent != folder or chosen.name.startswith("."):
        raise ArtifactError(f"default ({name}) must be the name of a model in {folder}/")
    read(chosen)
    (folder / DEFAULT).write_text(f"{chosen.name}\n", encoding="utf-8")
    return chosen.name


def file_bytes(folder: str | Path) -> dict[str, bytes]:
    """The checked bytes of each file of an artifact by name: what to publish. Raises ArtifactError, as `read` does.

    A model.onnx that cannot be used, which `read` puts up with, is an error here.
    """
    folder = Path(folder)
    files = _read_files(folder)
    graph, trouble = _read_graph(folder, parse(folder, files).hashes)
    if trouble:
        raise ArtifactError(trouble)
    return files if graph is None else files | {GRAPH: graph}


def read_file(path: Path, *, limit: int, sha256: str | None = None, links: bool = False) -> bytes:
    """The bytes of a plain file, at most `limit` of them and with this hash if given; else raises ArtifactError."""
    try:
        info = path.stat() if links else path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise broken(path, "is not a plain file")
        if info.st_size > limit:
            raise broken(path, f"has {info.st_size:,} bytes, of {limit:,} allowed")
        with path.open("rb") as file:
            data = file.read(info.st_size)  # not `limit`, for which room would be made
    except FileNotFoundError:
        raise broken(path, "is missing") from None
    except OSError as error:
        raise broken(path, f"cannot be read ({error.strerror})") from error
    if data.startswith(b"version https://git-lfs"):
        raise ArtifactError(f"{path} is a Git LFS pointer; fetch the file itself with: git lfs pull")
    # The length of a safetensors header may begin with the same byte, but the header itself begins with a brace.
    if path.suffix == ".safetensors" and data.startswith((b"\x80", b"PK\x03\x04")) and data[8:9] != b"{":
        raise ArtifactError(f"{path} is a pickle, which can run code; save the weights as safetensors")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise broken(path, "is not the file that config.json was saved with (its SHA-256 differs)")
    return data


def export_again(folder: Path, trouble: str) -> str:
    """A message about a model.onnx with this trouble."""
    return f"{folder / GRAPH} {trouble}; write it with: python -m train.export {folder} --to onnx"


def _replace(folder: Path, contents: Mapping[str, bytes]) -> None:
    try:
        replace_folder(folder, contents, owned={*FILES, GRAPH})
    except OSError as error:
        reason = error.strerror or error
        raise ArtifactError(f"{folder} cannot be saved ({reason}); make room or choose another folder") from error


def _identity(folder: Path) -> tuple[int, int] | None:
    """What changes when another folder takes the place of this one; None if there is none."""
    try:
        info = folder.stat()
    except (OSError, ValueError):  # ValueError: no system takes such a name
        return None
    return info.st_ino, info.st_mtime_ns


def _read_files(folder: Path, links: bool = False) -> dict[str, bytes]:
    """The bytes of each of FILES, as config.json lists them."""
    if not os.path.isdir(folder):
        raise ArtifactError(f"{folder} is not a folder; give one that holds a config.json, such as artifacts/pocket")
    path = folder / "config.json"
    data = {path.name: read_file(path, limit=FILES[path.name], links=links)}
    config, hashes = parse_head(path, data[path.name])
    weights_limit = MIB + 4 * sum(math.prod(shape) for shape in config.shapes().values())
    for name, sha256 in hashes.items():
        if name in FILES:
            limit = min(FILES[name], weights_limit) if name == "model.safetensors" else FILES[name]
            data[name] = read_file(folder / name, limit=limit, sha256=sha256, links=links)
    return data


def _read_graph(folder: Path, hashes: Mapping[str, str], links: bool = False) -> tuple[bytes | None, str | None]:
    """The model.onnx, or why it cannot be used, or neither where there is none."""
    path = folder / GRAPH
    if GRAPH not in hashes and not path.exists():
        return None, None
    try:
        return read_file(path, limit=GRAPH_LIMIT, sha256=hashes.get(GRAPH, ""), links=links), None
    except ArtifactError as error:
        return None, export_again(folder, str(error).removeprefix(f"{path} ").removesuffix(f"; {MEND}"))


def spelled(value: Any) -> Any:
    """JSON-able values whose texts can be written as UTF-8: names of files need not be spelled as the locale has it."""
    as_bytes = json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
    return json.loads(as_bytes.decode(errors="replace"))


def _to_json(name: str, value: object, indent: int | None = 1) -> bytes:
    try:
        return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{name} cannot be written ({error}); give it plain and finite values") from error
