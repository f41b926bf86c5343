"""The state of the stand-in Hub: repositories with commits, parents, trees, branches and large files, as in git."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.onnx filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Blob:
    """The content of a file. With `lfs`, git stores a pointer to it instead."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def oid(self) -> str:
        """The hash that `git hash-object` prints."""
        kept = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0%b" % (len(kept), kept)).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """Returns the file as the Hub lists it in a tree."""
        answer: dict[str, Any] = {"type": "file", "oid": self.oid, "size": len(self.data), "path": path}
        if self.lfs:
            answer["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return answer

    def sibling(self, path: str) -> dict[str, Any]:
        """Returns the file as the Hub lists it in the information about a repository."""
        answer = {"rfilename": path, "size": len(self.data), "blobId": self.oid}
        if self.lfs:
            answer["lfs"] = {"sha256": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return answer


@dataclass(frozen=True)
class Commit:
    """The state of all files, with its parents, author and message."""

    parents: tuple[str, ...]
    tree: Mapping[str, Blob]
    title: str
    message: str
    author: str
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))

    @property
    def oid(self) -> str:
        kept = [self.parents, sorted((path, blob.oid) for path, blob in self.tree.items())]
        return hashlib.sha1(json.dumps([*kept, self.title, self.message, self.author, self.date]).encode()).hexdigest()


class Refused(Exception):
    """An error that the Hub answers."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Repo:
    """One repository. `stored` holds the large files of all repositories, by SHA-256."""

    def __init__(self, kind: str, name: str, owner: str, stored: dict[str, bytes], **settings: Any) -> None:
        self.kind, self.name, self.owner, self.stored, self.settings = kind, name, owner, stored, settings
        self.lock, self.commits, self.refs = threading.Lock(), {}, {}
        readme = (
            f"---\ntitle: {name.split('/')[1]}\nsdk: gradio\n---\n" if kind == "spaces" else "---\nlicense: mit\n---\n"
        )
        first = {".gitattributes": Blob(ATTRIBUTES), "README.md": Blob(readme.encode())}
        self._add("main", Commit((), first, "initial commit", "", owner))

    def at(self, revision: str = "main") -> Commit:
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str = "main") -> list[Commit]:
        found = [self.at(revision)]
        while found[-1].parents:
            found.append(self.commits[found[-1].parents[0]])
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.at(revision).tree.items()}

    def is_large(self, path: str, size: int, revision: str) -> bool:
        attributes = self.at(revision).tree.get(".gitattributes", Blob(b"")).data.decode().splitlines()
        patterns = [line.split()[0] for line in attributes if "filter=lfs" in line]
        return size > 10 * 2**20 or any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns)

    def is_ignored(self, path: str, gitignore: str | None) -> bool:
        """Knows only simple patterns: a name, a folder with a slash at its end, a star."""
        kept = self.at().tree.get(".gitignore", Blob(b"")).data.decode() if gitignore is None else gitignore
        for line in filter(None, map(str.strip, kept.splitlines())):
            pattern, parts = line.strip("/"), path.split("/")
            if any(fnmatch.fnmatch(part, pattern) for part in (parts[:-1] if line.endswith("/") else parts)):
                return True
        return False

    def commit(self, lines: list[dict[str, Any]], author: str, revision: str, ref: str | None = None) -> Commit:
        """Applies all lines of a commit request to a revision, or none.

        `ref`, or else the revision, gets the new commit.
        """
        header, *changes = [line["value"] | {"key": line["key"]} for line in lines]
        with self.lock:
            before = self.at(revision)
            if header.get("parentCommit", before.oid) != before.oid:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(before.tree)
            for change in changes:
                self._apply(tree, change)
            made = Commit((before.oid,), tree, header["summary"], header.get("description", ""), author)
            self._add(ref or revision, made)
            return made

    def put(self, files: Mapping[str, bytes | None], title: str = "somebody's change") -> Commit:
        """Makes a commit of somebody else: new contents by path, where None deletes a file."""
        tree = dict(self.at().tree) | {path: Blob(data) for path, data in files.items() if data is not None}
        made = Commit(
            (self.at().oid,), {p: b for p, b in tree.items() if files.get(p, b) is not None}, title, "", "somebody"
        )
        self._add("main", made)
        return made

    def _apply(self, tree: dict[str, Blob], change: Mapping[str, Any]) -> None:
        import base64

        path = change["path"]
        if change["key"] == "file":
            tree[path] = Blob(base64.b64decode(change["content"]))
        elif change["key"] == "lfsFile":
            if change["oid"] not in self.stored:
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
            tree[path] = Blob(self.stored[change["oid"]], lfs=True)
        elif change["key"] == "deletedFile" and path in tree:
            del tree[path]
        else:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")

    def _add(self, ref: str, commit: Commit) -> None:
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
