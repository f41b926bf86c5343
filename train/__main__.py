"""Trains a storyteller: python -m train --preset pocket --data tinystories."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from model import load, write_default
from model.artifacts import DEFAULT
from model.command import expanded, path, run_command
from model.config import ModelConfig
from model.vocab import is_mark
from train.flags import Parser, nearest, refuse
from train.interrupts import Interrupted
from train.output import ARTIFACTS, require_artifact_folder
from train.presets import BEGINNING, ON_CUDA, PRESETS, TUNING, TrainConfig
from train.text.corpus import NAMES, name_of

INTRODUCTION = """\
Trains a character-level GPT from scratch and writes a folder that the page opens.

  .venv/bin/python -m train --preset debug --data my.txt                    a test of the setup, under 20 s
  .venv/bin/python -m train --preset pocket --data my.txt --max-minutes 20  your own text, into artifacts/my
  .venv/bin/python -m train --preset tune --data my.txt                     your own text, fine-tuning the storyteller
  .venv/bin/python -m train --preset pocket                                 TinyStories, two hours on two cores
  .venv/bin/python -m train --preset pocket --resume                        go on from the last checkpoint, after Ctrl-C

presets:
{presets}
  --data TEXT...   tinystories, tinystories-v2, shakespeare, panchatantra, or your own files and folders
  --out FOLDER     folder for the result (artifacts/<preset>; for your own text artifacts/<name of the text>)
  --steps N        length of the run; or --max-minutes M, within which the learning rate falls to zero
  --stop-after M   write a checkpoint and stop after M minutes; --resume goes on as if without a stop
  --device auto    cuda, mps or cpu

Every setting of a preset has its own flag: .venv/bin/python -m train --help lists them.
"""


SHAPE_HELP = {
    "architecture": "gpt (modern) or classic (as in the lecture)",
    "context": "characters that the network sees at once",
    "layers": "blocks",
    "heads": "attention heads in a block",
    "width": "size of the vector of a character inside the network",
    "hidden": "width inside the MLP; none for the architecture's default",
    "loops": "number of times the blocks are applied, with the same weights",
    "dropout": "share of activations that training sets to 0",
}
PATHS = ("data", "valid", "init", "replay", "teacher")  # settings that may hold a path
OUT_HELP = "folder for the result (artifacts/<preset>; for your own text artifacts/<name of the text>)"
GO_ON = "go on with the same command and --resume"
NOTHING_LOST = "stopped before the first checkpoint"


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        print(introduction(), end="")
        return 0
    parser = flags()
    # accept --batch_size (as nanoGPT writes it) as well as --batch-size
    argv = [re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), arg) for arg in argv]
    args = parser.parse_args(argv)
    if args.preset not in PRESETS:
        parser.error(f"preset ({args.preset}) must be one of {', '.join(PRESETS)}{nearest(args.preset, PRESETS)}")
    if args.stop_after is not None and not args.stop_after > 0:
        parser.error(f"--stop-after ({args.stop_after:g}) must be above 0, in minutes")
    try:
        config = fitted(args)
    except ValueError as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:  # only the page was installed
        parser.error(f"{error.name} is not installed: .venv/bin/python -m pip install -r requirements.txt")
    chosen = ["--device", "cuda"] if config.device == "cuda" and "--device" not in " ".join(argv) else []
    return run(config, args, reproducing([*argv, *chosen]))


def run(config: TrainConfig, args: argparse.Namespace, command: str) -> int:
    """Trains. Exit codes: 0 finished or stopped as asked, 2 refused or failed, 128 + N after signal N."""
    out = args.out or default_out(config)
    leads = os.environ.get("RANK", "0") == "0"  # of torchrun's ranks, only rank 0 prints
    try:
        require_artifact_folder(out, config.data, replace=args.replace, default=args.default)
        from train.loop import checkpoint_path, train

        done = train(config, out, resume=args.resume, stop_after=args.stop_after, command=command)
        if not done and leads:
            print(f"stopped after {args.stop_after:g} minutes; {GO_ON}", file=sys.stderr)
        if done and leads and args.default:
            write_default(out.parent, out.name)
    except Interrupted as error:
        kept = checkpoint_path(out).exists()
        if leads:
            print(f"{error}: {f'the checkpoint is kept; {GO_ON}' if kept else NOTHING_LOST}", file=sys.stderr)
        return 128 + error.number
    except KeyboardInterrupt:
        print(f"SIGINT: {NOTHING_LOST}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        go_on = getattr(error, "go_on", None)  # of a finished run
        return refuse(f"{error}: {shlex.join([*launcher(), *go_on])}" if go_on else str(error))
    return 0


def default_out(config: TrainConfig) -> Path:
    """The folder for the result without --out. The user's own text has its own, so no shipped model is replaced."""
    if config.data in NAMES:
        return ARTIFACTS / config.preset
    plain = (c if c.isalnum() or is_mark(c) or c in "_.-" else " " for c in name_of(config.data))
    name = "-".join("".join(plain).split()).strip(".-")
    return ARTIFACTS / ("own" if name in ("", DEFAULT) else name)


def reproducing(argv: Sequence[str]) -> str:
    """The command for the same run without interruptions, as cards and the page show it.

    Flags that do not change the result are left out. A path outside this folder keeps its last part only.
    """
    kept, arguments = [], iter(argv)
    for argument in arguments:
        if argument == "--stop-after":
            next(arguments)
        elif argument not in ("--resume", "--replace", "--default") and not argument.startswith("--stop-after="):
            kept.append(re.sub(r"^(--[\w-]+=)?(?:~|/|\.\./).*?([^/]*)/?$", r"\1\2", argument))
    return shlex.join([*launcher(), *kept])


def launcher() -> list[str]:
    """How this command was started: by Python, or by torchrun with its number of machines and ranks."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return [".venv/bin/python", "-m", "train"]
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    several = ["--nnodes", machines] if machines != "1" else []
    return [".venv/bin/torchrun", *several, "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1"), "-m", "train"]


def introduction() -> str:
    lines = []
    for name, config in PRESETS.items():
        shape, length = config.model, f"{config.steps} steps" if config.steps else f"{config.max_minutes:g} minutes"
        lines.append(f"  {name:<17}{shape.layers} layers, width {shape.width}, context {shape.context}; {length}")
    return INTRODUCTION.format(presets="\n".join(lines) + "\n")


def flags() -> Parser:
    """The parser: a flag for every field of TrainConfig and ModelConfig, and the flags of the command itself."""
    parser = Parser(prog="python -m train", description=__doc__)
    parser.add_argument("--preset", default="pocket", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--out", type=path, metavar="FOLDER", help=OUT_HELP)
    parser.add_argument("--replace", action="store_true", help="replace an artifact of another text in FOLDER")
    parser.add_argument("--default", action="store_true", help="make the page open with the result")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of the same run, if any")
    parser.add_argument("--stop-after", type=float, metavar="M", help="write a checkpoint and stop after M minutes")
    for settings, skipped in ((TrainConfig, {"preset", "model"}), (ModelConfig, {"vocab_size"})):
        group = parser.add_argument_group("the run" if settings is TrainConfig else "the network")
        types = get_type_hints(settings)
        for field in fields(settings):
            if field.name not in skipped:
                _add_flag(group, field.name, types[field.name], field.metadata.get("help") or SHAPE_HELP[field.name])
    return parser


def _add_flag(group: argparse._ArgumentGroup, name: str, kind: Any, about: str | None) -> None:
    flag = "--" + name.replace("_", "-")
    if kind in (bool, bool | None):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=about)
        return
    options = getattr(kind, "__args__", (kind,))  # int | None has two
    several = any(get_origin(option) is tuple for option in options)
    kind = next(option for option in options if option is not type(None))
    convert = expanded if name in PATHS else kind
    convert = _or_none(convert) if type(None) in options else convert
    group.add_argument(flag, type=convert, nargs="+" if several else None, metavar=kind.__name__, help=about)


def _or_none(convert: type) -> Any:
    """A converter that keeps "none", which `configure` reads as None: it removes a setting of the preset."""

    def read(text: str) -> Any:
        return "none" if text == "none" else convert(text)

    read.__name__ = convert.__name__
    return read


def fitted(args: argparse.Namespace) -> TrainConfig:
    """`configure` for the device of this machine. If auto means CUDA, sets args.device to cuda."""
    config = configure(args)
    import torch  # imported late: it takes seconds, which --help must not

    if config.device == "auto" and torch.cuda.is_available():
        args.device = "cuda"
    return configure(args, "cuda") if (args.device or "").startswith("cuda") else config


def configure(args: argparse.Namespace, device: str = "cpu") -> TrainConfig:
    """The preset for a device of this type, overridden by every flag that was given.

    Raises ValueError for settings that are invalid or do not fit together.
    """
    given = {name: None if value == "none" else value for name, value in vars(args).items() if value is not None}
    if args.track == "none":
        given["track"] = "none"
    base = replace(PRESETS[args.preset], **ON_CUDA.get(args.preset, {}) if device == "cuda" else {})
    if "data" in given:
        given["data"] = given["data"][0] if len(given["data"]) == 1 else tuple(given["data"])
    for name in PATHS:
        if given.get(name) == "" or (isinstance(given.get(name), tuple) and "" in given[name]):
            raise ValueError(f"--{name} is empty: give a value, or omit the flag")
    if init := given.get("init", base.init):
        base = base if base.init else replace(base, **TUNING)
        shape = replace(load(init).config, dropout=base.model.dropout)
        window = base.window if base.window and shape.context % base.window == 0 else None
        base = replace(base, model=shape, window=window)
    elif base.init:  # --init none
        base = replace(base, **BEGINNING)
    shape = {f.name: given[f.name] for f in fields(ModelConfig) if f.name in given}
    settings = {
        f.name: given[f.name] for f in fields(TrainConfig) if f.name in given and f.name not in ("preset", "model")
    }
    if "steps" in given and "max_minutes" not in given:
        settings["max_minutes"] = None  # --steps N means N steps, even if the preset has a time limit
    elif "max_minutes" in given and "steps" not in given:
        settings["steps"] = None
    if init and (fixed := shape.keys() - {"dropout"}):
        raise ValueError(f"{', '.join(sorted(fixed))} cannot be set: --init {init} determines it")
    if "context" in given and "window" not in given:
        settings["window"] = None  # the preset's short windows divide its own context
    config = replace(base, model=replace(base.model, **shape), **settings)
    if "replay_share" in given and not config.replay:
        raise ValueError("--replay-share needs --replay: give the text to replay")
    return config


if __name__ == "__main__":
    run_command(main)
