"""Tells a story in the terminal: python -m model "Once upon a time" --length 600 --temperature 0.8 --seed 7."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import model  # it imports the rest on first use: in main(), where Ctrl-C is handled
from model.command import Parser, expanded, run_command, stream_trouble

if TYPE_CHECKING:
    from model import Sampling, Storyteller

ARTIFACTS = Path("artifacts")
FAILED = 1


def build_parser() -> Parser:
    default = model.USUAL
    parser = Parser(prog="python -m model", description="Tells a story.", allow_abbrev=False)
    add = parser.add_argument
    add("prompt", nargs="?", default="", help="how the story begins; - reads it from standard input")
    add("--model", type=expanded, help="the folder of a model, or user/name on the Hub (default: the first of --list)")
    add("--length", type=int, default=default.length, help="characters at most (default: %(default)s)")
    add("--temperature", type=float, default=default.temperature, help="0: the likeliest, 2: very random (%(default)s)")
    add("--top-k", type=int, default=default.top_k, help="choose among the k likeliest characters (0: all)")
    add("--top-p", type=float, default=default.top_p, help="choose among the likeliest up to this probability (1: all)")
    add("--min-p", type=float, default=default.min_p, help="choose among those at least this share as likely (0: all)")
    add("--seed", type=int, default=default.seed, help="the same seed gives the same story (default: a new seed)")
    add("--drafts", type=int, default=default.drafts, help="draw each sentence N times, keep the best (%(default)s)")
    add("--beams", type=int, default=default.beams, help="beginnings that are continued at the same time (%(default)s)")
    add("--list", action="store_true", help="list the models in artifacts/ and end; the page opens with the first")
    add(
        "--default",
        type=expanded,
        metavar="NAME",
        help="make the page and this command use artifacts/NAME first, and end",
    )
    return parser


def find_all() -> list[Storyteller]:
    """Returns the storytellers in artifacts/, the page's default first. Prints on stderr why others were skipped."""
    storytellers, skipped = model.find(ARTIFACTS)
    for reason in skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    if not storytellers:
        raise model.ArtifactError(
            f"no model in {ARTIFACTS}/; train one with: .venv/bin/python -m train --preset pocket"
        )
    return storytellers


def describe(storyteller: Storyteller) -> str:
    metrics, text = storyteller.metrics, storyteller.evaluated_on.name
    loss = f"{metrics['nats_per_character']:.4f} nats per character{text and f' on {text}'}"
    return f"{metrics['parameters']:,} parameters, {loss}"


def print_story(storyteller: Storyteller, text: str, sampling: Sampling) -> None:
    """Prints the prompt and the story on stdout as it is told, and on stderr the settings and the lost characters."""
    from model.vocab import visible

    teller = storyteller.teller(text, sampling)
    prompt = teller.prompt
    settings = ", ".join(f"{name.replace('_', '-')} {getattr(sampling, name)}" for name in model.SETTINGS)
    print(f"{storyteller.repo_id or storyteller.folder}: {describe(storyteller)}; {settings}", file=sys.stderr)
    if prompt.dropped:
        dropped = " ".join(map(visible, prompt.dropped))
        print(f"left out, because the model does not know them: {dropped}", file=sys.stderr)
    if prompt.kept == 0:
        print("no letter of the prompt is left: the story begins from the start", file=sys.stderr)
    elif prompt.cut:
        read = f"the last {prompt.kept} characters of the prompt, not the {prompt.cut} before"
        print(f"the model reads {read}", file=sys.stderr)
    print(prompt.text, end="", flush=True)
    for piece in storyteller.tell(text, sampling):
        print(piece, end="", flush=True)
    print(flush=True)


def read_prompt(parser: Parser) -> str:
    """Returns the text of standard input, without the end of its last line, which does not belong to the prompt."""
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        parser.error(f"standard input cannot be read ({stream_trouble(error)}): give the prompt as an argument")
    return io.StringIO(data.decode(errors="replace"), newline=None).read().removesuffix("\n")  # None: of any system


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    try:
        parser = build_parser()
        options = parser.parse_args(argv)
        try:
            sampling = model.Sampling(**{name: getattr(options, name) for name in model.SETTINGS}).seeded()
        except ValueError as error:
            parser.error(str(error))
        if options.default is not None:
            print(f"the page opens with {model.write_default(ARTIFACTS, options.default)}")
            return 0
        if options.list:
            for storyteller in find_all():
                print(f"{storyteller.folder}: {describe(storyteller)}", flush=True)
            return 0
        storyteller = model.load(options.model) if options.model else find_all()[0]
        prompt = options.prompt.removesuffix("\r")  # "$(cat FILE)" removes only the other half of a \r\n
        print_story(storyteller, read_prompt(parser) if prompt == "-" else prompt, sampling)
        return 0
    except KeyboardInterrupt:  # for the next clause, `model` would import again what was interrupted
        raise
    except model.ArtifactError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    run_command(main)
