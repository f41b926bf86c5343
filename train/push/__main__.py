"""Puts trained models and their page on the Hub: python -m train.push user/space."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from huggingface_hub import RepoCard, SpaceHardware, SpaceInfo, get_token

from model.artifacts import ArtifactError
from model.command import expanded, run_command
from model.hub import LOGIN, REPO, upload
from model.writing import QUOTES, STOPS
from train.flags import Parser
from train.push import rehearsal
from train.push.contents import Contents, PushError, check, gather
from train.push.errors import HARDWARE, TOKENS, as_push_errors
from train.push.space import Space, compare, files_of, wait

DONE, BROKEN, REFUSED, INTERRUPTED = 0, 1, 2, 130  # 1: the commit was made, but what follows it failed
HINT = "A first try: .venv/bin/python -m train.push YOU/SPACE --dry-run"


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.push", description=__doc__.splitlines()[0], epilog=HINT)
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    add("space", metavar="user/space", type=_repo, help="the Space on the Hub; created if it does not exist")
    add(
        "--artifact",
        type=expanded,
        **several,
        metavar="NAME",
        help="names in artifacts/, or folders (default: all but trials)",
    )
    names = [hardware.value for hardware in SpaceHardware]
    add("--hardware", choices=names, metavar="NAME", help=f"hardware (default: {HARDWARE} for a new Space)")
    add("--private", action="store_true", help="a new Space that only you can see")
    add("--message", default="Push the page and its models", help="of the commit (default: %(default)s)")
    add("--model", metavar="user/name", type=_repo, help="publish the first artifact as a model repository as well")
    add("--dry-run", action="store_true", help="check everything and say what would change; change nothing")
    add("--pull-request", action="store_true", help="propose the change as a pull request; nothing is built")
    add("--replace", action="store_true", help="replace the page of another program in the Space")
    add("--yes", action="store_true", help="do not ask before publishing models that are new to the Space")
    add("--no-wait", action="store_true", help="do not wait for the build")
    add("--rollback", action="store_true", help="restore the state before the last push; nothing else is done")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 refused with no page changed, 1 committed but what follows failed."""
    parser = build_parser()
    args = parser.parse_args(argv)
    _check_flags(parser, args)
    token, code = get_token(), REFUSED

    def say(text: str, file: TextIO | None = None) -> None:
        """Prints a line, with the token removed."""
        print(text.replace(token, "(the token)") if token else text, file=file, flush=True)

    try:
        if token is None and not args.dry_run:
            raise PushError(f"there is no token: {LOGIN} ({TOKENS}, with write access)")
        space = Space(args.space, token, say)
        contents = None if args.rollback else _checked(args, token, say)
        with as_push_errors(space.url):
            commit = _push(args, contents, space) if contents else _roll_back(space)
            code = BROKEN if commit else REFUSED
            if contents and args.model and not args.dry_run:
                _publish(args, contents, token, space)
            if commit and not args.pull_request and not args.no_wait:
                _watch(space, commit, token, contents)
        return DONE
    except (PushError, ArtifactError) as error:
        say(f"error: {error}", sys.stderr)
        return code
    except KeyboardInterrupt:
        say("interrupted: the Hub has the old state or the new one, nothing in between", sys.stderr)
        return INTERRUPTED


def _checked(args: argparse.Namespace, token: str | None, say: Callable[[str], None]) -> Contents:
    """Stage 1: all checks that do not need the Hub."""
    contents = gather(args.artifact)
    check(contents, token)
    for line in (*contents.described, *contents.left_out):
        say(line)
    if contents.need_torch:
        slow = ", ".join(contents.need_torch)
        say(f"without a model.onnx ({slow}) the Space must install PyTorch, which takes minutes; to avoid that:")
        say(f"  .venv/bin/python -m train.export artifacts/{contents.need_torch[0]} --to onnx")
    for name, story in rehearsal.rehearse(contents).items():
        say(f"{name} tells: {sentence(story)}")
    return contents


def _push(args: argparse.Namespace, contents: Contents, space: Space) -> str | None:
    """Stage 2. Returns the commit, or None if there is nothing to commit or with --dry-run."""
    with as_push_errors(f"{space.url}: README.md"):  # before the Space is created
        RepoCard(contents.files["README.md"].decode()).validate(repo_type="space")
    head = space.head()
    changes = compare(contents.files, head)
    space.say(f"{space.url}: {f'at {head.sha[:12]}' if head else 'is new'}")
    for line in changes.lines():
        space.say(f"  {line}")
    if head and args.private and not head.private:
        raise PushError(f"{space.url} exists and is public: change that in {space.url}/settings, or drop --private")
    if head and not args.replace and not args.pull_request:
        space.require_ours(changes)
    hardware = args.hardware or (None if head else HARDWARE)
    if args.dry_run:
        if hardware:
            space.say(f"  would run on {hardware}")
        if args.model:
            space.say(f"  would publish {args.model}")
        space.say("nothing was changed: --dry-run")
        return None
    if not args.yes and not args.artifact:
        _confirm(contents, head)
    if head is None:
        head = space.create(hardware, args.private)
        space.say("made the Space, still empty")
    elif hardware:
        space.move(hardware)
    if not any(compare(contents.files, head)):
        space.say("the Space holds all this already")
        return None
    made = space.push(contents.files, head, args.message, pull_request=args.pull_request)
    space.say(f"proposed: {made.pr_url}" if args.pull_request else f"committed: {made.commit_url}")
    return made.oid


def _confirm(contents: Contents, head: SpaceInfo | None) -> None:
    """Asks before models are published that are new to the Space. Raises PushError unless the answer is yes."""
    there = {path.split("/")[1] for path in files_of(head) if re.match("artifacts/.+/", path)}
    new = ", ".join(name for name in contents.artifacts if name not in there)
    if not new:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise PushError(f"the Space does not have {new} yet: give --yes to publish them, or choose with --artifact")
    try:
        answer = input(f"the Space does not have {new} yet: publish them? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise PushError("nothing was changed: the answer was not yes")


def _roll_back(space: Space) -> str:
    made = space.roll_back()
    space.say(f"rolled back: {made.commit_url}")
    return made.oid


def _publish(args: argparse.Namespace, contents: Contents, token: str | None, space: Space) -> None:
    """Publishes the first artifact as a model repository; --private and --pull-request apply to it too."""
    name, folder = contents.artifacts[0], f"artifacts/{contents.artifacts[0]}/"
    files = {path.removeprefix(folder): data for path, data in contents.files.items() if path.startswith(folder)}
    options = {"private": args.private or None, "token": token, "create_pr": args.pull_request}
    with as_push_errors(f"{space.api.endpoint}/{args.model}"):
        url = upload(files, args.model, commit_message=f"Upload {name}", **options)
    space.say(f"{'proposed' if args.pull_request else 'published'} {name}: {url}")


def _watch(space: Space, commit: str, token: str | None, contents: Contents | None) -> None:
    """Stage 3: follows the build, then asks the page on the Hub for a story. After a rollback there may be no page."""
    if contents is None and "app.py" not in files_of(space.head()):
        space.say("there was no page before the first push, so there is nothing to wait for")
        return
    info = wait(space, commit)
    model = contents.artifacts[0] if contents else None
    story = rehearsal.tell(info.host or "", model=model, token=token if info.private else None)
    space.say(f"the Space tells: {sentence(story)}\n{space.url}")


def sentence(story: str) -> str:
    """Returns the first sentence of a story, or its start if no sentence ends."""
    # a full stop within a word ends no sentence; those of other scripts need no blank behind them
    match = re.match(rf".+?(?:[.!?](?=[{QUOTES}\s]|$)|(?![.!?])[{STOPS}])[{QUOTES}]?", story, re.DOTALL)
    return " ".join((match[0] if match else f"{story} ...").split())


def _repo(name: str) -> str:
    if not REPO.fullmatch(name):
        raise argparse.ArgumentTypeError(f"({name!r}) must be user/name, as in https://huggingface.co/user/name")
    return name


def _check_flags(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses flags that cannot be combined."""
    for name in ("artifact", "hardware", "private", "model", "dry_run", "pull_request", "replace"):
        if args.rollback and getattr(args, name):
            parser.error(f"--rollback cannot be combined with --{name.replace('_', '-')}")
    if args.pull_request and args.hardware:
        parser.error("--pull-request cannot be combined with --hardware: a proposal does not change the Space")


if __name__ == "__main__":
    run_command(main)
