"""Exports a model for other engines: python -m train.export artifacts/storyteller --to onnx|transformers|gguf OUT."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from model.artifacts import ArtifactError, utf8_safe
from model.command import path, run_command
from model.storyteller import load
from train.export.formats import FORMATS, HELD_OUT, ExportError, export_onnx, writer
from train.output import require_export_folder
from train.text.corpus import CorpusError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.export", description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=path, help="a folder such as artifacts/storyteller")
    parser.add_argument("--to", required=True, choices=FORMATS, help="onnx goes into the artifact, the others into OUT")
    parser.add_argument("out", type=path, nargs="?", metavar="OUT", help="the folder that transformers or gguf writes")
    parser.add_argument("--data", type=path, metavar="FILE", help="onnx: stories to measure 8 bits on (else: its own)")
    parser.add_argument("--bits", type=int, choices=(8, 32), help="onnx: of the weights (default: whichever is faster)")
    args = parser.parse_intermixed_args(argv)  # OUT comes after the flags
    if (args.out is None) != (args.to == "onnx"):
        parser.error(f"--to {args.to} takes {'no OUT: it writes into the artifact' if args.out else 'an OUT'}")
    if args.to != "onnx" and (args.data or args.bits):
        parser.error("--data and --bits are for --to onnx")
    try:
        storyteller = load(args.artifact)
        if args.to == "onnx":
            writer("onnx")  # names a package that is missing
            from train.evaluate import text_of
            from train.held_out import sequences_of

            text = text_of(storyteller)
            sequences = sequences_of(args.data, storyteller.vocab, text, HELD_OUT) if args.data else []
            if args.data and not sequences:
                raise CorpusError(f"{args.data} holds no story to measure 8 bits on; give a file with stories")
            print(utf8_safe(export_onnx(args.artifact, sequences, args.bits)))
        else:
            to = writer(args.to)
            require_export_folder(args.out, to.names(storyteller))
            for name in to.write(storyteller, args.out):
                print(utf8_safe(f"{args.out / name}: {(args.out / name).stat().st_size:,} bytes"))
    except (ArtifactError, CorpusError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    run_command(main)
