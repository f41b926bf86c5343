"""A Space on the Hub: what it holds, what a push changes, the one commit that does it, the build, the way back."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import huggingface_hub as hub
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils.sha import git_hash, sha256

from train.push.contents import OWNED, PushError
from train.push.errors import FAILURES, passes_in, said

MARK = "Pushed with python -m train.push"  # in the description of every commit of ours, for the way back
ROLL_BACK = "Roll back to "
PAUSES, PATIENCE = (1.0, 2.0), 60  # seconds before a commit is sent again, and the most that the Hub may ask for
WAIT_MINUTES, POLL_SECONDS, LAG_SECONDS = 30, 1.0, 15  # the Hub takes some seconds to see that it must build
BROKEN = {"BUILD_ERROR": "the build failed", "RUNTIME_ERROR": "the page broke down"}
BROKEN |= {"CONFIG_ERROR": "the README's settings are refused", "NO_APP_FILE": "there is no app.py"}


class Changes(NamedTuple):
    """What makes of a state the wanted one; sizes in bytes by path."""

    added: dict[str, int]
    changed: dict[str, int]
    deleted: dict[str, int]

    def lines(self) -> Iterator[str]:
        """A line per file, and one of totals."""
        for sign, files in zip("+~-", self, strict=True):
            for path, size in sorted(files.items()):
                yield f"{sign} {path}  {size:,} bytes"
        kinds = zip(self._fields, self, strict=True)
        yield ", ".join(f"{len(files)} {kind} ({sum(files.values()):,} bytes)" for kind, files in kinds)


def files_of(info: hub.SpaceInfo | None) -> dict[str, RepoSibling]:
    """The files of a Space by path; none where there is no Space."""
    return {file.rfilename: file for file in (info and info.siblings) or ()}


def compare(files: Mapping[str, bytes], info: hub.SpaceInfo | None) -> Changes:
    """What a push changes. Of files that it does not bring only those in the folders `OWNED` go."""
    there = files_of(info)
    added = {path: len(data) for path, data in files.items() if path not in there}
    changed = {path: len(data) for path, data in files.items() if path in there and not _same(data, there[path])}
    stale = {path: file.size or 0 for path, file in there.items() if path.startswith(OWNED) and path not in files}
    return Changes(added, changed, stale)


class Space:
    """A Gradio Space, by the name user/space. Its methods raise what the Hub's client does: see `errors.plainly`."""

    def __init__(self, repo_id: str, token: str | None, say: Callable[[str], None] = print) -> None:
        self.repo_id, self.say = repo_id, say
        self.api = hub.HfApi(token=token or False, library_name="gpt-from-scratch")
        self.url = f"{self.api.endpoint}/spaces/{repo_id}"
        self.kind: dict[str, Any] = {"repo_id": repo_id, "repo_type": "space"}

    def at(self, revision: str | None = None) -> hub.SpaceInfo:
        """The Space as it is, or was at a revision."""
        return self.api.space_info(self.repo_id, revision=revision, files_metadata=True)

    def head(self) -> hub.SpaceInfo | None:
        """The Space as it is; None if there is none, or none that the token may see."""
        try:
            return self.at()
        except HfHubHTTPError as error:
            if error.response.status_code == 404 or (error.response.status_code == 401 and not self.api.token):
                return None
            raise

    def require_ours(self, changes: Changes) -> None:
        """Raises PushError where a push would replace or delete what this program never brought to the Space."""
        lost = sorted({*changes.changed, *changes.deleted} - {"README.md"})  # which the Hub makes with a Space
        if not lost or any(MARK in commit.message for commit in self.api.list_repo_commits(**self.kind)):
            return
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        mend = "--pull-request proposes that, --replace does it"
        raise PushError(f"{self.url} holds a page that is not of this program; a push would replace {named}: {mend}")

    def create(self, hardware: str, private: bool) -> hub.SpaceInfo:
        """Makes the Space, with no page in it yet."""
        self.api.create_repo(**self.kind, space_sdk="gradio", space_hardware=hardware, private=private, exist_ok=True)
        return self.at()

    def move(self, hardware: str) -> None:
        """Asks for other hardware, where the Space has not asked for it already."""
        runtime = self.api.get_space_runtime(self.repo_id)
        if hardware not in (runtime.hardware, runtime.requested_hardware):
            self.api.request_space_hardware(self.repo_id, hardware)

    def push(
        self, files: Mapping[str, bytes], head: hub.SpaceInfo, message: str, *, pull_request: bool = False
    ) -> hub.CommitInfo:
        """Brings the Space to hold `files`, in one commit on top of `head`: all of it or nothing.

        The Hub refuses it with status 412 where a commit was made meanwhile.
        """
        changes = compare(files, head)
        additions = [hub.CommitOperationAdd(path, files[path]) for path in (*changes.added, *changes.changed)]
        operations = [*additions, *map(hub.CommitOperationDelete, changes.deleted)]
        # Its .gitignore would silently leave files out: the Space gets what was checked, or nothing.
        self.api.preupload_lfs_files(
            **self.kind, additions=additions, create_pr=pull_request, gitignore_content="", free_memory=False
        )
        made = self._commit(operations, head.sha, message, pull_request)
        if any(compare(files, self.at(made.oid))):
            raise PushError(f"{made.commit_url} holds something else than was pushed: look there, and push again")
        return made

    def roll_back(self) -> hub.CommitInfo:
        """Makes a commit that holds what was there before the last push."""
        commits = self.api.list_repo_commits(**self.kind)
        target = self._before_the_last_push(commits)
        now, then = files_of(self.at(commits[0].commit_id)), files_of(self.at(target))
        differ = [path for path, file in then.items() if path not in now or now[path].blob_id != file.blob_id]
        operations: list[Any] = [hub.CommitOperationCopy(path, path, src_revision=target) for path in differ]
        operations += [hub.CommitOperationDelete(path) for path in now if path not in then]
        if not operations:
            raise PushError(f"{self.url} holds what it held before the last push: there is nothing to roll back")
        return self._commit(operations, commits[0].commit_id, f"{ROLL_BACK}{target[:12]}")

    def _before_the_last_push(self, commits: list[Any]) -> str:
        """The commit to go back to; one that went back already is passed over together with what it undid."""
        last, known = 0, [commit.commit_id[:12] for commit in commits]
        while (match := re.fullmatch(rf"{ROLL_BACK}(\w+)", commits[last].title)) and match[1] in known:
            last = known.index(match[1])
        if MARK not in commits[last].message or last + 1 == len(commits):
            trouble = f"the last change ({commits[last].title!r}) is no push of this program"
            raise PushError(f"{self.url}: {trouble}: undo it in {self.url}/commits")
        return commits[last + 1].commit_id

    def _commit(self, operations: list[Any], parent: str, message: str, pull_request: bool = False) -> hub.CommitInfo:
        """One commit on top of `parent`.

        The client retries uploads but not this request: its answer may get lost after the commit was made. A number in
        the description tells whether it was.
        """
        note = f"{MARK} ({uuid.uuid4().hex[:12]})"
        details = {"commit_message": message, "commit_description": note, "parent_commit": parent}
        pauses = iter(PAUSES)
        while True:
            try:
                return self.api.create_commit(**self.kind, **details, operations=operations, create_pr=pull_request)
            except FAILURES as error:
                if pull_request:
                    raise
                last = self.api.list_repo_commits(**self.kind)[0]
                if note in last.message:
                    url = f"{self.url}/commit/{last.commit_id}"
                    return hub.CommitInfo(url, message, note, last.commit_id, _endpoint=self.api.endpoint)
                pause = next(pauses, None)
                pause = pause and passes_in(error, pause)
                if pause is None or pause > PATIENCE:
                    raise
                self.say(f"{said(error)}: trying again in {pause:g} s")
                time.sleep(pause)


def wait(space: Space, commit: str) -> hub.SpaceInfo:
    """Follows the build of a commit until its page runs, telling the log's lines; what is known of the Space.

    Raises PushError with the log's last lines if it fails, and after `WAIT_MINUTES`.
    """
    log = threading.Thread(target=lambda: [space.say(line) for line in _log(space, follow=True)], daemon=True)
    log.start()
    try:
        return _wait(space, commit)
    finally:
        log.join(2)  # the log's lines stand before what came of it


def _wait(space: Space, commit: str) -> hub.SpaceInfo:
    started, seen_building = time.monotonic(), False
    while time.monotonic() - started < WAIT_MINUTES * 60:
        pause: float | None = POLL_SECONDS
        try:
            runtime = space.api.get_space_runtime(space.repo_id)
            stage, built = str(runtime.stage), runtime.raw.get("sha")
            seen_building = seen_building or stage.endswith(("BUILDING", "APP_STARTING"))
            late = seen_building or time.monotonic() - started > LAG_SECONDS
            ours = built == commit or (built is None and late)
            if stage in BROKEN and (ours or seen_building):
                reason = f" ({runtime.raw['errorMessage']})" if runtime.raw.get("errorMessage") else ""
                lines = list(_log(space, build=stage == "BUILD_ERROR"))[-20:]
                back = f"python -m train.push {space.repo_id} --rollback brings back what was there before"
                raise PushError("\n".join([f"{space.url}: {BROKEN[stage]}{reason}", *lines, back]))
            if stage in ("PAUSED", "STOPPED", "DELETING") and late:
                raise PushError(f"{space.url} is {stage.lower()}: restart it in its settings, {space.url}/settings")
            if stage in ("RUNNING", "SLEEPING") and ours:
                return space.api.space_info(space.repo_id)
        except FAILURES as error:  # the commit stands: what passes is waited out
            pause = passes_in(error, POLL_SECONDS)
            if pause is None:
                raise
        time.sleep(pause)
    raise PushError(f"{space.url} does not run after {WAIT_MINUTES} minutes; its log stands there")


def _log(space: Space, build: bool = True, follow: bool = False) -> Iterator[str]:
    try:
        for text in space.api.fetch_space_logs(space.repo_id, build=build, follow=follow):
            yield from (f"  {line}" for line in text.splitlines())
    except FAILURES as error:
        yield f"  (the log cannot be read: {said(error)})"


def _same(data: bytes, file: RepoSibling) -> bool:
    return sha256(data).hexdigest() == file.lfs.sha256 if file.lfs else git_hash(data) == file.blob_id
