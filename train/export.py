"""A trained model for other engines: python -m train.export artifacts/storyteller --to onnx|transformers|gguf OUT."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType

from model.artifacts import ArtifactError
from model.storyteller import Storyteller, load
from train.corpus import CorpusError, read_stories
from train.evaluate import sequence

FORMATS = ("onnx", "transformers", "gguf")  # the writer of each is train/export_<format>.py
HELD_OUT = 100  # stories that 8-bit weights are measured on, and how much is read of what is no story but a whole text
HELD_OUT_SYMBOLS = 20_000


class ExportError(ValueError):
    """This export cannot be made; the message says why and names the mend."""


def writer(to: str) -> ModuleType:
    """The module that writes a format. Raises ExportError if a package that it needs is missing."""
    try:
        return import_module(f"train.export_{to}")
    except ModuleNotFoundError as error:
        if error.name == f"train.export_{to}":
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.export", description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, help="a folder such as artifacts/storyteller")
    parser.add_argument("--to", required=True, choices=FORMATS, help="onnx goes into the artifact, the others into OUT")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="what transformers or gguf writes")
    parser.add_argument("--data", type=Path, metavar="FILE", help="onnx: stories to measure 8 bits on (its own)")
    parser.add_argument("--bits", type=int, choices=(8, 32), help="onnx: of the weights (default: whichever is faster)")
    args = parser.parse_intermixed_args(argv)  # OUT comes after the flags
    if (args.out is None) != (args.to == "onnx"):
        parser.error(f"--to {args.to} takes {'no OUT: it writes into the artifact' if args.out else 'an OUT'}")
    if args.to != "onnx" and (args.data or args.bits):
        parser.error("--data and --bits are for --to onnx")
    try:
        storyteller = load(args.artifact)
        if args.to == "onnx":
            stories = list(islice(read_stories(args.data), HELD_OUT)) if args.data else []
            if args.data and not stories:
                raise CorpusError(f"{args.data} holds no story to measure on")
            print(export_onnx(args.artifact, [sequence(storyteller.vocab, story) for story in stories], args.bits))
        else:
            export(storyteller, args.to, args.out)
    except (ArtifactError, CorpusError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
