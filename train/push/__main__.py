"""Puts trained models and their page on the Hub: python -m train.push user/space."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from model.artifacts import ArtifactError
from model.hub import LOGIN, REPO
from train.flags import Parser, nearest
from train.push.contents import Contents, PushError, check, gather

if TYPE_CHECKING:
    from train.push.space import Head, Space

DONE, BROKEN, REFUSED, INTERRUPTED = 0, 1, 2, 130  # 1: the commit was made, but what follows it failed
HINT = "A first try: python -m train.push YOU/SPACE --dry-run"


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.push", description=__doc__.splitlines()[0], epilog=HINT)
    add = parser.add_argument
    add("space", metavar="user/space", type=_repo, help="the Space on the Hub; it is made if there is none")
    add(
        "--artifact",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="of artifacts/, or folders (default: all of them)",
    )
    add("--hardware", help="what it runs on (a new Space: zero-a10g; one that is there: left as it is)")
    add("--private", action="store_true", help="a new Space that only you can see")
    add("--message", default="Push the page and its models", help="of the commit (default: %(default)s)")
    add("--model", metavar="user/name", type=_repo, help="publish the first artifact as a model repository as well")
    add("--dry-run", action="store_true", help="check everything and say what would change; change nothing")
    add("--pull-request", action="store_true", help="propose the change as a pull request; nothing is built")
    add("--replace", action="store_true", help="put this page in place of another one that the Space holds")
    add("--no-wait", action="store_true", help="do not wait for the build")
    add("--rollback", action="store_true", help="put back what was there before the last push, and nothing else")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 refused with no page changed, 1 committed but what follows failed."""
    parser = build_parser()
    args = parser.parse_args(argv)
    _check_flags(parser, args)
    from huggingface_hub import get_token

    token = get_token()
    say = _without(token)
    try:
        if args.rollback:
            return _roll_back(args, token, say)
        contents = _checked(args, token, say)
        return _push(args, contents, token, say)
    except (PushError, ArtifactError) as error:
        say(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        say("interrupted; the Hub holds the old state or the new one, never half of it", file=sys.stderr)
        return INTERRUPTED


def _checked(args: argparse.Namespace, token: str | None, say: Callable[..., None]) -> Contents:
    """Stage 1: all that can be known without the Hub."""
    from train.push.rehearsal import rehearse

    contents = gather(args.artifact)
    check(contents, token)
    if contents.need_torch:
        slow = ", ".join(contents.need_torch)
        say(f"without a model.onnx ({slow}) the Space must install PyTorch, which takes minutes; to mend that:")
        say(f"  python -m train.export artifacts/{contents.need_torch[0]} --to onnx")
    for name, story in rehearse(contents).items():
        say(f"{name} tells: {sentence(story)}")
    return contents


def _push(args: argparse.Namespace, contents: Contents, token: str | None, say: Callable[..., None]) -> int:
    """Stages 2 and 3."""
    from train.push.errors import HARDWARE
    from train.push.space import Space, compare

    space = Space(args.space, token, say)
    if token is None and not args.dry_run:
        raise PushError(f"there is no token: {LOGIN} (https://huggingface.co/settings/tokens, with write access)")
    head = space.head()
    changes = compare(contents.files, head.files if head else {})
    say(f"{space.url}: {'is new' if head is None else f'at {head.commit[:12]}'}")
    for line in changes.lines():
        say(f"  {line}")
    if head is not None and args.private and not head.private:
        raise PushError(f"{space.url} is there and public: change that in {space.url}/settings, or drop --private")
    if head is not None and not args.replace and not args.pull_request:
        space.require_ours(changes)
    if args.dry_run:
        if hardware := args.hardware or (HARDWARE if head is None else None):
            say(f"  would run on {hardware}")
        if args.model:
            say(f"  would publish {args.model}")
        say("nothing was changed: --dry-run")
        return DONE
    is_there = head is not None
    if head is None:
        head = space.create(args.hardware or HARDWARE, args.private)
        say("made the Space, still empty")
    commit = _commit(args, space, head, contents, say)
    try:
        if args.hardware and is_there:
            space.move(args.hardware)
        if args.model:
            _publish(args, contents, token, say)
    except PushError as error:
        say(f"error: {error}", file=sys.stderr)
        return BROKEN if commit else REFUSED
    if commit is None or args.pull_request or args.no_wait:
        return DONE
    return _watch(space, commit, token, say, contents.artifacts[0])


def _commit(
    args: argparse.Namespace, space: Space, head: Head, contents: Contents, say: Callable[..., None]
) -> str | None:
    """Stage 2; the commit, or None where the Space holds all this already."""
    from train.push.space import compare

    if not compare(contents.files, head.files):
        say("the Space holds all this already")
        return None
    made = space.push(contents.files, head, args.message, pull_request=args.pull_request)
    say(f"proposed: {made.pr_url}" if args.pull_request else f"committed: {made.commit_url}")
    return made.oid


def _publish(args: argparse.Namespace, contents: Contents, token: str | None, say: Callable[..., None]) -> None:
    """The first artifact as a model repository, as private as the Space and, like its page, perhaps only proposed."""
    from huggingface_hub import constants

    from model.hub import upload
    from train.push.errors import FAILURES, explain

    name = contents.artifacts[0]
    try:
        url = upload(
            contents.artifact(name),
            args.model,
            commit_message=f"Upload {name}",
            private=args.private or None,
            token=token,
            create_pr=args.pull_request,
        )
    except FAILURES as error:
        raise PushError(explain(error, f"{constants.ENDPOINT}/{args.model}", unchanged=False)) from error
    say(f"{'proposed' if args.pull_request else 'published'} {name}: {url}")


def _watch(space: Space, commit: str, token: str | None, say: Callable[..., None], artifact: str | None = None) -> int:
    """Stage 3: the build, and a sentence from the page on the Hub; without an artifact there may be no page either."""
    from train.push.rehearsal import tell

    try:
        if artifact is None and "app.py" not in space.head().files:
            say("before the first push there was no page, so there is none to wait for")
            return DONE
        info = space.wait(commit)
        story = tell(info.host or "", model=artifact, token=token if info.private else None)
    except Exception as error:  # the commit stands, so the exit code must tell that apart from a refusal
        say(f"error: {error}", file=sys.stderr)
        return BROKEN
    say(f"the Space tells: {sentence(story)}\n{space.url}")
    return DONE


def _roll_back(args: argparse.Namespace, token: str | None, say: Callable[..., None]) -> int:
    from train.push.space import Space

    if token is None:
        raise PushError(f"there is no token: {LOGIN}")
    space = Space(args.space, token, say)
    if space.head() is None:
        raise PushError(f"{space.url}: there is no such Space, or none that this token may see")
    made = space.roll_back()
    say(f"rolled back: {made.commit_url}")
    return DONE if args.no_wait else _watch(space, made.oid, token, say)


def sentence(story: str) -> str:
    """The first sentence of a story, or its start where that has no end."""
    match = re.match(r".+?[.!?](?=[\"\s]|$)\"?", story, re.DOTALL)
    return " ".join((match[0] if match else f"{story} ...").split())


def _without(token: str | None) -> Callable[..., None]:
    """`print` that never shows the token, whatever a log or an error brings."""

    def say(text: str, **options: object) -> None:
        print(text.replace(token, "(the token)") if token else text, flush=True, **options)  # type: ignore[call-overload]

    return say


def _repo(name: str) -> str:
    if not REPO.fullmatch(name):
        raise argparse.ArgumentTypeError(f"({name!r}) must be user/name, as in https://huggingface.co/user/name")
    return name


def _check_flags(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses flags that do not go together, and hardware that the Hub does not have."""
    if args.rollback:
        others = ("artifact", "hardware", "private", "model", "dry_run", "pull_request", "replace")
        for flag in [name for name in others if getattr(args, name)]:
            parser.error(f"--rollback goes without --{flag.replace('_', '-')}")
    if args.pull_request and args.hardware:
        parser.error("--pull-request goes without --hardware: a proposal changes nothing of the Space")
    if args.hardware:
        from huggingface_hub import SpaceHardware

        names = [hardware.value for hardware in SpaceHardware]
        if args.hardware not in names:
            near = nearest(args.hardware, names)
            parser.error(f"hardware ({args.hardware}) must be one of {', '.join(names)}{near}")


if __name__ == "__main__":
    sys.exit(main())
