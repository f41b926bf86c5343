"""The writers of each format, and model.onnx at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from model.artifacts import ArtifactError
from model.storyteller import load

FORMATS = ("onnx", "transformers", "gguf")  # the writer of each is train/export/<format>.py
HELD_OUT, HELD_OUT_SYMBOLS = 100, 20_000  # stories that a graph is measured on, and how much is read of each


class ExportError(ValueError):
    """This export cannot be made; the message says why and names the mend."""


def writer(to: str) -> ModuleType:
    """The module that writes a format. Raises ExportError if a package that it needs is missing."""
    try:
        return import_module(f"train.export.{to}")
    except ModuleNotFoundError as error:
        package = error.name.split(".")[0]
        install = f".venv/bin/python -m pip install {package}"
        raise ExportError(f"--to {to} needs {package}, which is not installed: {install}") from error


def export_onnx(folder: Path, sequences: Sequence[Sequence[int]], bits: int | None = None) -> str:
    """Puts model.onnx into an artifact, measured on those sequences of symbols; returns a line about it."""
    measured = [list(map(int, ids[:HELD_OUT_SYMBOLS])) for ids in sequences[:HELD_OUT]]  # of bytes, perhaps
    return writer("onnx").write(load(folder), bits=bits, sequences=measured)


def after_training(folder: Path, sequences: Sequence[Sequence[int]]) -> str:
    """The same at the end of a run, which is complete without a graph: the line then says how to get one."""
    try:
        return export_onnx(folder, sequences)
    except ExportError as error:
        return f"no model.onnx yet: {error}; then: python -m train.export {folder} --to onnx"
    except ArtifactError as error:  # names its own mend
        return f"no model.onnx yet: {error}"
