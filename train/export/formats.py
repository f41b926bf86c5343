"""Finds the writer of each format, and writes model.onnx at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from model.artifacts import ArtifactError
from model.storyteller import load

FORMATS = ("onnx", "transformers", "gguf")  # the writer of each is train/export/<format>.py
HELD_OUT, HELD_OUT_SYMBOLS = 100, 20_000  # stories to measure a graph on, and symbols read of each, at most


class ExportError(ValueError):
    """This export cannot be made. The message says why, and names the fix."""


def writer(to: str) -> ModuleType:
    """Returns the module that writes a format. Raises ExportError if a package that it needs is missing."""
    try:
        return import_module(f"train.export.{to}")
    except ModuleNotFoundError as error:
        package = error.name.split(".")[0]
        whole = "-r requirements.txt"  # which pins it
        install = f".venv/bin/python -m pip install {whole if package in ('torch', 'onnx') else package}"
        raise ExportError(f"--to {to} needs {package}, which is not installed: {install}") from error


def export_onnx(folder: Path, sequences: Sequence[Sequence[int]], bits: int | None = None) -> str:
    """Writes model.onnx into an artifact and measures it on these sequences of symbols. Returns a line about it."""
    measured = [list(map(int, ids[:HELD_OUT_SYMBOLS])) for ids in sequences[:HELD_OUT]]  # they may be arrays of bytes
    return writer("onnx").write(load(folder), bits=bits, sequences=measured)


def after_training(folder: Path, sequences: Sequence[Sequence[int]]) -> str:
    """Does the same at the end of a run. If it fails, the run is still complete: the line says how to get a graph."""
    try:
        return export_onnx(folder, sequences)
    except ExportError as error:
        return f"no model.onnx yet: {error}; then: .venv/bin/python -m train.export {folder} --to onnx"
    except ArtifactError as error:  # its message names the fix
        return f"no model.onnx yet: {error}"
