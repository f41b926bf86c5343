"""A Space on the Hub: what it holds, what a push changes, the one commit that does it, the build, the way back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    SpaceInfo,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha256

from train.push import errors as refusals
from train.push.contents import OWNED, PushError
from train.push.errors import FAILURES, HARDWARE, brief, explain, passes_in, worth_waiting

MARK = "Pushed with python -m train.push"  # in the description of every commit of ours, for the way back
ROLL_BACK = "Roll back to "
WAIT_MINUTES, POLL_SECONDS, LAG_SECONDS = 30, 1.0, 15  # the Hub takes some seconds to see that it must build
BROKEN = {"BUILD_ERROR": "the build failed", "RUNTIME_ERROR": "the page broke down"}
BROKEN |= {"CONFIG_ERROR": "the README's settings are refused", "NO_APP_FILE": "there is no app.py"}
IDLE = {"PAUSED": "paused", "STOPPED": "stopped", "DELETING": "being deleted"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Head:
    """The state of a Space: its commit, whether it is private, and its files by path."""

    commit: str
    private: bool
    files: dict[str, RepoFile]


@dataclass(frozen=True)
class Changes:
    """What makes of a state the wanted one; sizes in bytes by path."""

    added: dict[str, int]
    changed: dict[str, int]
    deleted: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.deleted)

    def lines(self) -> Iterator[str]:
        """A line per file, and one of totals."""
        kinds = (("+", "added", self.added), ("~", "changed", self.changed), ("-", "deleted", self.deleted))
        for sign, _, files in kinds:
            for path, size in sorted(files.items()):
                yield f"{sign} {path}  {size:,} bytes"
        yield ", ".join(f"{len(files)} {what} ({sum(files.values()):,} bytes)" for _, what, files in kinds)


def compare(files: Mapping[str, bytes], there: Mapping[str, RepoFile]) -> Changes:
    """What a push changes. Of files that it does not bring only those in the folders `OWNED` go."""
    added, changed = {}, {}
    for path, data in files.items():
        if path not in there:
            added[path] = len(data)
        elif not _same(data, there[path]):
            changed[path] = len(data)
    stale = {path: file.size for path, file in there.items() if path.startswith(OWNED) and path not in files}
    return Changes(added, changed, stale)


class Space:
    """A Gradio Space, by the name user/space. What the Hub refuses is raised as PushError with the mend."""

    def __init__(self, repo_id: str, token: str | None, say: Say = print) -> None:
        self.repo_id, self.say = repo_id, say
        self.api = HfApi(token=token or False, library_name="gpt-from-scratch")
        self.url = f"{self.api.endpoint}/spaces/{repo_id}"
        self.kind: dict[str, Any] = {"repo_id": repo_id, "repo_type": "space"}

    def head(self) -> Head | None:
        """The Space as it is; None if there is none, or none that the token may see."""
        with self._plainly():
            try:
                info = self.api.space_info(self.repo_id)
            except HfHubHTTPError as error:
                if error.response.status_code == 404 or (error.response.status_code == 401 and not self.api.token):
                    return None
                raise
            return Head(info.sha or "", bool(info.private), self._files(info.sha))

    def require_ours(self, changes: Changes) -> None:
        """Raises PushError where a push would replace or delete what this program never brought to the Space."""
        lost = sorted({*changes.changed, *changes.deleted} - {"README.md"})  # which the Hub makes with a Space
        if not lost:
            return
        with self._plainly():
            if any(MARK in commit.message for commit in self.api.list_repo_commits(**self.kind)):
                return
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        mend = "--pull-request proposes that, --replace does it"
        raise PushError(f"{self.url} holds a page that is not of this program; a push would replace {named}: {mend}")

    def create(self, hardware: str, private: bool) -> Head:
        """Makes the Space, with no page in it yet."""
        with self._plainly(hardware):
            self.api.create_repo(
                **self.kind, space_sdk="gradio", space_hardware=hardware, private=private, exist_ok=True
            )
        head = self.head()
        if head is None:
            raise PushError(f"{self.url} was made but cannot be seen: give the token read access to it")
        return head

    def move(self, hardware: str) -> None:
        """Asks for other hardware, where the Space has not asked for it already; its page is committed by then."""
        with self._plainly(hardware, unchanged=False):
            runtime = self.api.get_space_runtime(self.repo_id)
            if hardware not in (runtime.hardware, runtime.requested_hardware):
                self.api.request_space_hardware(self.repo_id, hardware)

    def push(self, files: Mapping[str, bytes], head: Head, message: str, *, pull_request: bool = False) -> Any:
        """Brings the Space to hold `files`, in one commit on top of `head`: all of it or nothing.

        Returns the CommitInfo. A commit that was made meanwhile is not overwritten: PushError.
        """
        changes = compare(files, head.files)
        brought = [*changes.added, *changes.changed]
        operations = [CommitOperationAdd(path, files[path]) for path in brought]
        operations += [CommitOperationDelete(path) for path in changes.deleted]
        with self._plainly(unchanged=not pull_request):
            # Its .gitignore would silently leave files out: the Space gets what was checked, or nothing.
            additions = operations[: len(brought)]
            self.api.preupload_lfs_files(
                **self.kind, additions=additions, create_pr=pull_request, gitignore_content="", free_memory=False
            )
            return self._commit(operations, head.commit, message, pull_request, lambda there: not compare(files, there))

    def roll_back(self) -> Any:
        """Makes a commit that holds what was there before the last push; its CommitInfo."""
        with self._plainly():
            commits = self.api.list_repo_commits(**self.kind)
            target = self._before_the_last_push(commits)
            now, then = self._files(commits[0].commit_id), self._files(target)
            differ = [path for path, file in then.items() if path not in now or now[path].blob_id != file.blob_id]
            operations: list[Any] = [CommitOperationCopy(path, path, src_revision=target) for path in differ]
            operations += [CommitOperationDelete(path) for path in now if path not in then]
            if not operations:
                raise PushError(f"{self.url} holds what it held before the last push: there is nothing to roll back")
            wanted = {path: file.blob_id for path, file in then.items()}
            return self._commit(
                operations,
                commits[0].commit_id,
                f"{ROLL_BACK}{target[:12]}",
                False,
                lambda there: wanted == {path: file.blob_id for path, file in there.items()},
            )

    def wait(self, commit: str) -> SpaceInfo:
        """Follows the build of a commit until its page runs, telling the log's lines; what is known of the Space.

        Raises PushError with the log's last lines if it fails, and after `WAIT_MINUTES`.
        """
        following = threading.Thread(target=self._follow_build, daemon=True)
        following.start()
        try:
            return self._wait(commit)
        finally:
            following.join(2)  # the log's lines stand before what came of it

    def _wait(self, commit: str) -> SpaceInfo:
        started, seen_building = time.monotonic(), False
        while time.monotonic() - started < WAIT_MINUTES * 60:
            try:
                runtime = self.api.get_space_runtime(self.repo_id)
                stage, built = str(runtime.stage), runtime.raw.get("sha")
                seen_building = seen_building or stage.endswith(("BUILDING", "APP_STARTING"))
                late = seen_building or time.monotonic() - started > LAG_SECONDS
                ours = built == commit or (built is None and late)
                if stage in BROKEN and (ours or seen_building):
                    raise PushError(self._what_broke(stage, runtime.raw.get("errorMessage")))
                if stage in IDLE and late:
                    raise PushError(f"{self.url} is {IDLE[stage]}: restart it in its settings, {self.url}/settings")
                if stage in ("RUNNING", "SLEEPING") and ours:
                    return self.api.space_info(self.repo_id)
                pause = POLL_SECONDS
            except PushError:
                raise
            except FAILURES as error:  # the commit stands: what passes is waited out
                pause = passes_in(error, POLL_SECONDS)
                if pause is None:
                    raise PushError(explain(error, self.url, unchanged=False)) from error
            time.sleep(pause)
        raise PushError(f"{self.url} does not run after {WAIT_MINUTES} minutes; its log stands there")

    def _files(self, revision: str | None) -> dict[str, RepoFile]:
        tree = self.api.list_repo_tree(**self.kind, revision=revision, recursive=True)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def _before_the_last_push(self, commits: list[Any]) -> str:
        """The commit to go back to; one that went back already is passed over together with what it undid."""
        last, known = 0, [commit.commit_id for commit in commits]
        while match := re.fullmatch(rf"{ROLL_BACK}([0-9a-f]{{12}})", commits[last].title):
            last = next((i for i, commit in enumerate(known) if commit.startswith(match[1])), len(known))
            if last == len(known):
                raise PushError(f"{self.url} has no commit {match[1]} any more: choose one in {self.url}/commits")
        if MARK not in commits[last].message:
            trouble = f"the last change ({commits[last].title!r}) is no push of this program"
            raise PushError(f"{self.url}: {trouble}: undo it in {self.url}/commits")
        if last + 1 == len(commits):
            raise PushError(f"{self.url} held nothing before its last push")
        return known[last + 1]

    def _commit(
        self,
        operations: list[Any],
        parent: str,
        message: str,
        pull_request: bool,
        is_wanted: Callable[[dict[str, RepoFile]], bool],
    ) -> Any:
        """One commit on top of `parent`; where its answer got lost, the Hub is asked before it is sent again."""
        for attempt in range(1, refusals.TRIES + 1):
            try:
                made = self.api.create_commit(
                    **self.kind,
                    operations=operations,
                    commit_message=message,
                    commit_description=MARK,
                    parent_commit=parent,
                    create_pr=pull_request,
                )
                break
            except FAILURES as error:
                wait = worth_waiting(error, attempt)
                if not pull_request and (landed := self._landed(parent, is_wanted)):
                    return landed
                if wait is None or pull_request:
                    raise
                self.say(f"{brief(error)}: trying again in {wait:g} s")
                time.sleep(wait)
        if not is_wanted(self._files(made.oid)):
            raise PushError(f"{made.commit_url} holds something else than was pushed: look there, and push again")
        return made

    def _landed(self, parent: str, is_wanted: Callable[[dict[str, RepoFile]], bool]) -> Any:
        """The newest commit, if it is the one that was sent and whose answer got lost."""
        last = self.api.list_repo_commits(**self.kind)[0]
        if last.commit_id == parent or MARK not in last.message or not is_wanted(self._files(last.commit_id)):
            return None
        url = f"{self.url}/commit/{last.commit_id}"
        return CommitInfo(url, last.title, last.message, last.commit_id, _endpoint=self.api.endpoint)

    def _follow_build(self) -> None:
        try:
            for line in self.api.fetch_space_logs(self.repo_id, build=True, follow=True):
                self.say(f"  {line.rstrip()}")
        except (HTTPError, OSError) as error:
            self.say(f"(the build's log cannot be read: {brief(error)})")

    def _what_broke(self, stage: str, reason: str | None) -> str:
        try:
            log = list(self.api.fetch_space_logs(self.repo_id, build=stage == "BUILD_ERROR"))
        except FAILURES as error:
            log = [f"(its log cannot be read: {brief(error)})"]
        lines = "".join(line if line.endswith("\n") else f"{line}\n" for line in log).splitlines()[-20:]
        head = f"{self.url}: {BROKEN[stage]}{f' ({reason})' if reason else ''}"
        back = f"python -m train.push {self.repo_id} --rollback brings back what was there before"
        return "\n".join([head, *(f"  {line}" for line in lines), back])

    @contextmanager
    def _plainly(self, hardware: str = HARDWARE, *, unchanged: bool = True) -> Iterator[None]:
        """Turns what the Hub's client raises into a PushError in plain English."""
        try:
            yield
        except PushError:
            raise
        except FAILURES as error:
            raise PushError(explain(error, self.url, hardware, unchanged=unchanged)) from error


def _same(data: bytes, file: RepoFile) -> bool:
    if file.lfs is not None:
        return sha256(data).hexdigest() == file.lfs.sha256
    return git_hash(data) == file.blob_id
