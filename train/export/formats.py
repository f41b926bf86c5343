"""The writers of each format, and model.onnx at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from model.artifacts import ArtifactError
from model.storyteller import Storyteller, load

FORMATS = ("onnx", "transformers", "gguf")  # the writer of each is train/export/<format>.py
HELD_OUT = 100  # stories that 8-bit weights are measured on, and how much is read of what is no story but a whole text
HELD_OUT_SYMBOLS = 20_000


class ExportError(ValueError):
    """This export cannot be made; the message says why and names the mend."""


def writer(to: str) -> ModuleType:
    """The module that writes a format. Raises ExportError if a package that it needs is missing."""
    try:
        return import_module(f"train.export.{to}")
    except ModuleNotFoundError as error:
        if error.name == f"train.export.{to}":
            raise ExportError(f"--to {to} is not part of this version; take one of the other formats") from error
        mend = "install it with: pip install -r requirements-dev.txt"
        raise ExportError(f"--to {to} needs {error.name}, which is not installed; {mend}") from error


def export(storyteller: Storyteller, to: str, out: Path) -> None:
    """Writes `out` for another engine."""
    writer(to).write(storyteller, out)


def export_onnx(folder: Path, sequences: Sequence[Sequence[int]] | None = None, bits: int | None = None) -> str:
    """Puts model.onnx into an artifact, measured on those sequences of symbols; a line about it."""
    measured = [[int(id) for id in ids[:HELD_OUT_SYMBOLS]] for ids in (sequences or ())[:HELD_OUT]]  # may be bytes
    return writer("onnx").write(load(folder), bits=bits, sequences=measured)


def after_training(folder: Path, sequences: Sequence[Sequence[int]]) -> str:
    """The same at the end of a run, which stands without the graph as well: the line then says how to get it."""
    try:
        return export_onnx(folder, sequences)
    except ExportError as error:
        return f"no model.onnx yet: {error}; then: python -m train.export {folder} --to onnx"
    except ArtifactError as error:
        return f"no model.onnx yet: {error}"
