"""A Space on the Hub: its files, what a push changes, the one commit of a push, its build, and the rollback."""

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
from train.push.errors import FAILURES, error_text, retry_delay

MARK = "Pushed with python -m train.push"  # in the description of each of our commits: a rollback looks for it
ROLL_BACK = "Roll back to "
# before each retry of a commit, and the longest wait that the Hub may ask for
RETRY_SECONDS, MAX_RETRY_SECONDS = (1.0, 2.0), 60
WAIT_MINUTES, POLL_SECONDS, LAG_SECONDS = 30, 1.0, 15  # the Hub starts a build only after some seconds
FAILED_STAGES = {"BUILD_ERROR": "the build failed", "RUNTIME_ERROR": "the page crashed"}
FAILED_STAGES |= {"CONFIG_ERROR": "the README's settings are refused", "NO_APP_FILE": "there is no app.py"}


class Changes(NamedTuple):
    """The changes that lead from the state of a Space to the wanted one: sizes in bytes by path."""

    added: dict[str, int]
    changed: dict[str, int]
    deleted: dict[str, int]

    def lines(self) -> Iterator[str]:
        """Yields a line for each file, and one with the totals."""
        for sign, files in zip("+~-", self, strict=True):
            for path, size in sorted(files.items()):
                yield f"{sign} {path}  {size:,} bytes"
        kinds = zip(self._fields, self, strict=True)
        yield ", ".join(f"{len(files)} {kind} ({sum(files.values()):,} bytes)" for kind, files in kinds)


def files_of(info: hub.SpaceInfo | None) -> dict[str, RepoSibling]:
    """Returns the files of a Space by path, or no files if there is no Space."""
    return {file.rfilename: file for file in (info and info.siblings) or ()}


def compare(files: Mapping[str, bytes], info: hub.SpaceInfo | None) -> Changes:
    """Returns what a push changes. It deletes only files in the folders `OWNED` that are not among `files`."""
    there = files_of(info)
    added = {path: len(data) for path, data in files.items() if path not in there}
    changed = {path: len(data) for path, data in files.items() if path in there and not _same(data, there[path])}
    stale = {path: file.size or 0 for path, file in there.items() if path.startswith(OWNED) and path not in files}
    return Changes(added, changed, stale)


class Space:
    """A Gradio Space, named user/space. Its methods raise the Hub client's errors: see `as_push_errors`."""

    def __init__(self, repo_id: str, token: str | None, say: Callable[[str], None] = print) -> None:
        self.repo_id, self.say = repo_id, say
        self.api = hub.HfApi(token=token or False, library_name="gpt-from-scratch")
        self.url = f"{self.api.endpoint}/spaces/{repo_id}"
        self.kind: dict[str, Any] = {"repo_id": repo_id, "repo_type": "space"}

    def info(self, revision: str | None = None) -> hub.SpaceInfo:
        """Returns the Space as it is now, or as it was at a revision."""
        return self.api.space_info(self.repo_id, revision=revision, files_metadata=True)

    def head(self) -> hub.SpaceInfo | None:
        """Returns the Space as it is now, or None if there is none that the token may see."""
        try:
            return self.info()
        except HfHubHTTPError as error:
            if error.response.status_code == 404 or (error.response.status_code == 401 and not self.api.token):
                return None
            raise

    def require_ours(self, changes: Changes) -> None:
        """Raises PushError if a push would replace or delete files of a Space to which this program never pushed."""
        lost = sorted({*changes.changed, *changes.deleted} - {"README.md"})  # the Hub creates README.md with a Space
        if not lost or any(MARK in commit.message for commit in self.api.list_repo_commits(**self.kind)):
            return
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        fix = "--pull-request proposes that, --replace does it"
        raise PushError(f"{self.url} holds a page that this program did not push; a push would replace {named}: {fix}")

    def create(self, hardware: str, private: bool) -> hub.SpaceInfo:
        """Creates the Space, without a page."""
        self.api.create_repo(**self.kind, space_sdk="gradio", space_hardware=hardware, private=private, exist_ok=True)
        return self.info()

    def move(self, hardware: str) -> None:
        """Requests this hardware, unless the Space has it or has requested it already."""
        runtime = self.api.get_space_runtime(self.repo_id)
        if hardware not in (runtime.hardware, runtime.requested_hardware):
            self.api.request_space_hardware(self.repo_id, hardware)

    def push(
        self, files: Mapping[str, bytes], head: hub.SpaceInfo, message: str, *, pull_request: bool = False
    ) -> hub.CommitInfo:
        """Makes the Space hold `files`, in one commit on top of `head`: completely or not at all.

        The Hub refuses the commit with status 412 if another one was made in the meantime.
        """
        changes = compare(files, head)
        additions = [hub.CommitOperationAdd(path, files[path]) for path in (*changes.added, *changes.changed)]
        operations = [*additions, *map(hub.CommitOperationDelete, changes.deleted)]
        # gitignore_content is empty: otherwise the .gitignore of the Space would silently exclude checked files.
        self.api.preupload_lfs_files(
            **self.kind, additions=additions, create_pr=pull_request, gitignore_content="", free_memory=False
        )
        made = self._commit(operations, head.sha, message, pull_request)
        if any(compare(files, self.info(made.oid))):
            raise PushError(f"{made.commit_url} does not hold what was pushed: look at that commit, and push again")
        return made

    def roll_back(self) -> hub.CommitInfo:
        """Makes a commit that restores the state before the last push."""
        commits = self.api.list_repo_commits(**self.kind)
        target = self._before_the_last_push(commits)
        now, then = files_of(self.info(commits[0].commit_id)), files_of(self.info(target))
        differ = [path for path, file in then.items() if path not in now or now[path].blob_id != file.blob_id]
        operations: list[Any] = [hub.CommitOperationCopy(path, path, src_revision=target) for path in differ]
        operations += [hub.CommitOperationDelete(path) for path in now if path not in then]
        if not operations:
            raise PushError(f"{self.url} holds what it held before the last push: there is nothing to roll back")
        return self._commit(operations, commits[0].commit_id, f"{ROLL_BACK}{target[:12]}")

    def _before_the_last_push(self, commits: list[Any]) -> str:
        """Returns the commit to go back to. Earlier rollbacks are skipped, together with the pushes that they undid."""
        last, known = 0, [commit.commit_id[:12] for commit in commits]
        while (match := re.fullmatch(rf"{ROLL_BACK}(\w+)", commits[last].title)) and match[1] in known:
            last = known.index(match[1])
        if MARK not in commits[last].message or last + 1 == len(commits):
            trouble = f"the last change ({commits[last].title!r}) was not pushed by this program"
            raise PushError(f"{self.url}: {trouble}: undo it in {self.url}/commits")
        return commits[last + 1].commit_id

    def _commit(self, operations: list[Any], parent: str, message: str, pull_request: bool = False) -> hub.CommitInfo:
        """One commit on top of `parent`.

        The client retries uploads, but not this request, because the answer may get lost after the commit was made. A
        random number in the description shows whether it was made.
        """
        note = f"{MARK} ({uuid.uuid4().hex[:12]})"
        details = {"commit_message": message, "commit_description": note, "parent_commit": parent}
        pauses = iter(RETRY_SECONDS)
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
                pause = pause and retry_delay(error, pause)
                if pause is None or pause > MAX_RETRY_SECONDS:
                    raise
                self.say(f"{error_text(error)}: trying again in {pause:g} s")
                time.sleep(pause)


def wait(space: Space, commit: str) -> hub.SpaceInfo:
    """Follows the build of a commit until its page runs, and prints the log. Returns the state of the Space.

    Raises PushError with the last lines of the log if the build fails, and after `WAIT_MINUTES`.
    """
    log = threading.Thread(target=lambda: [space.say(line) for line in _log(space, follow=True)], daemon=True)
    log.start()
    try:
        return _wait(space, commit)
    finally:
        log.join(2)  # print the lines of the log before the outcome


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
            if stage in FAILED_STAGES and (ours or seen_building):
                reason = f" ({runtime.raw['errorMessage']})" if runtime.raw.get("errorMessage") else ""
                lines = list(_log(space, build=stage == "BUILD_ERROR"))[-20:]
                back = f".venv/bin/python -m train.push {space.repo_id} --rollback restores the state before the push"
                raise PushError("\n".join([f"{space.url}: {FAILED_STAGES[stage]}{reason}", *lines, back]))
            if stage in ("PAUSED", "STOPPED", "DELETING") and late:
                raise PushError(f"{space.url} is {stage.lower()}: restart it in its settings, {space.url}/settings")
            if stage in ("RUNNING", "SLEEPING") and ours:
                return space.api.space_info(space.repo_id)
        except FAILURES as error:  # the commit is made: keep waiting if the error may pass
            pause = retry_delay(error, POLL_SECONDS)
            if pause is None:
                raise
        time.sleep(pause)
    raise PushError(f"{space.url} does not run after {WAIT_MINUTES} minutes; see its log there")


def _log(space: Space, build: bool = True, follow: bool = False) -> Iterator[str]:
    try:
        for text in space.api.fetch_space_logs(space.repo_id, build=build, follow=follow):
            yield from (f"  {line}" for line in text.splitlines())
    except FAILURES as error:
        yield f"  (the log cannot be read: {error_text(error)})"


def _same(data: bytes, file: RepoSibling) -> bool:
    return sha256(data).hexdigest() == file.lfs.sha256 if file.lfs else git_hash(data) == file.blob_id
