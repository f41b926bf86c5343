"""A stand-in for the Hugging Face Hub on this machine: the HTTP API that huggingface_hub uses, with real state.

It refuses requests by the Hub's own rules (401, 402, 403, 404, 409, 412), and fails on demand: see `Fault`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_address import ADDRESS, SOCKET
from hub_git import Commit, Refused, Repo
from hub_spaces import Runner
from hub_xet import Xet

PAYMENT = (
    "Static Spaces are free for everyone, but hosting Gradio and Docker Spaces on free cpu-basic requires a PRO "
    "subscription. Subscribe at https://huggingface.co/pro"
)
STORAGE = ADDRESS.replace("127.0.0.1", "localhost")  # large files are on another host
ZERO_LIMIT = 2  # ZeroGPU Spaces of a free account
COLOURS = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]


@dataclass
class Account:
    """The account that a token belongs to."""

    name: str
    writes: bool = True
    paid: bool = False


@dataclass
class Fault:
    """A failure of the next `times` requests that match "METHOD /path": an error status, or a lost connection.

    With `cut` the connection is closed after half of the request was read, or with `late` after the request was
    processed, before the answer.
    """

    match: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    cut: bool = False
    late: bool = False


class Hub(ThreadingHTTPServer):
    """The server and its state."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.server_address = SOCKET.dup(), SOCKET.getsockname()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.accounts: dict[str, Account] = {}
        self.stored: dict[str, bytes] = {}  # large files by SHA-256
        self.parts: dict[str, dict[int, bytes]] = {}
        self.xet = Xet(self.stored)
        self.part_size = 16_000_000
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.before_commit: Callable[[Repo], object] | None = None  # called before each commit: a concurrent change
        self.spaces = Runner(folder)
        self.connections: set[socket.socket] = set()  # kept, because clients reuse connections, even for the next Hub

    def handle_error(self, *_: object) -> None:
        """Prints nothing: clients may close connections, and any other error fails a test by its missing answer."""

    def space(self, name: str) -> Repo:
        return self.repos["spaces", name]

    def create(self, kind: str, name: str, **settings: Any) -> Repo:
        repo = Repo(kind, name, name.split("/")[0], self.stored, **settings)
        self.repos[kind, name] = repo
        if kind == "spaces":
            self.spaces.add(repo)
        return repo


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm, wbufsize = True, -1  # head and body in one packet: otherwise each answer takes 40 ms more
    server: Hub

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def log_message(self, *args: object) -> None:
        """Keeps the tests' output clean."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        url = urlsplit(self.path)
        line = f"{self.command} {unquote(url.path)}"
        self.server.requests.append(line)
        fault = next((f for f in self.server.faults if f.times and re.search(f.match, line)), None)
        if fault:
            fault.times -= 1
        if fault and fault.cut and not fault.late:
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._hang_up()
        body = self._body()
        if fault and fault.status:
            return self._send(fault.status, {"error": "out of order"}, fault.headers)
        try:
            parts = [unquote(part) for part in url.path.strip("/").split("/")]
            status, answer, headers = self._route(parts, parse_qs(url.query), body)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            return self._send(refused.status, {"error": refused.message}, headers)
        if fault and fault.late:
            return self._hang_up()
        return self._send(status, answer, headers)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _account(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.accounts:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.server.accounts.get(token)

    def _route(self, parts: list[str], query: dict[str, list[str]], body: bytes) -> tuple[int, Any, dict[str, str]]:
        hub = self.server
        if parts[0] == "storage":  # uploads and downloads of large files; they need no token
            return self._storage(parts[1:], body)
        if parts[0] == "xet":
            return self._xet(parts[1:], body)
        if parts == ["zero-gpu", "startup-report"]:
            return 200, {}, {}
        account = self._account()
        if parts == ["api", "whoami-v2"]:
            return 200, {"type": "user", "name": account.name, "auth": {}} if account else {}, {}
        if parts == ["api", "validate-yaml"]:
            return self._validate(json.loads(body)["content"])
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body), account)
        if parts[0] == "api" and parts[1] in ("spaces", "models") and len(parts) >= 4:
            repo = self._find(parts[1], "/".join(parts[2:4]), account)
            return self._repo(repo, parts[4:], query, body, account)
        kind = parts.pop(0) if parts[0] == "spaces" else "models"
        name = "/".join(parts[:2]).removesuffix(".git")
        repo = self._find(kind, name, account)
        if parts[2:5] == ["info", "lfs", "objects"]:
            self._may_write(repo, account)
            return self._lfs(repo, parts[5], json.loads(body))
        if parts[2] == "resolve":
            return self._resolve(repo, parts[3], "/".join(parts[4:]))
        raise Refused(404, f"the stand-in does not know {self.command} {self.path}: {hub.requests[-1]}")

    def _find(self, kind: str, name: str, account: Account | None) -> Repo:
        repo = self.server.repos.get((kind, name))
        if repo is None or (repo.settings.get("private") and (account is None or account.name != repo.owner)):
            if account is None:
                raise Refused(401, "Invalid username or password.")
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repo

    def _may_write(self, repo: Repo, account: Account | None) -> Account:
        if account is None:
            raise Refused(401, "Invalid username or password.")
        if not account.writes or account.name != repo.owner:
            raise Refused(403, "you must use a write token to upload to a repository.", "")
        return account

    def _create(self, request: dict[str, Any], account: Account | None) -> tuple[int, Any, dict[str, str]]:
        kind = f"{request.get('type', 'model')}s"
        if account is None:
            raise Refused(401, "Invalid username or password.")
        owner = request["organization"] or account.name
        if not account.writes or owner != account.name:
            raise Refused(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')
        name, url = (
            f"{owner}/{request['name']}",
            f"{ADDRESS}/{'spaces/' if kind == 'spaces' else ''}{owner}/{request['name']}",
        )
        if (kind, name) in self.server.repos:
            return 409, {"error": "You already created this repo", "url": url}, {}
        hardware = request.get("hardware", "cpu-basic")
        if kind == "spaces" and not account.paid:
            zeros = [
                r for r in self.server.repos.values() if r.owner == owner and r.settings.get("hardware") == hardware
            ]
            if hardware != "zero-a10g" or len(zeros) >= ZERO_LIMIT:
                raise Refused(402, PAYMENT)
        settings = {"hardware": hardware, "sdk": request["sdk"]} if kind == "spaces" else {}
        self.server.create(kind, name, private=request.get("visibility") == "private", **settings)
        return 200, {"url": url, "name": name, "id": name}, {}

    def _validate(self, content: str) -> tuple[int, Any, dict[str, str]]:
        """Checks the front matter of a README by a few of the Hub's rules. Answers in JSON, or in text if requested."""
        found = re.match(r"---\n(.*?\n)---\n", content, re.DOTALL)
        fields = yaml.safe_load(found[1]) if found else {}
        coloured = [key for key in ("colorFrom", "colorTo") if fields.get(key, "red") not in COLOURS]
        errors = [f'"{key}" must be one of [{", ".join(COLOURS)}]' for key in coloured]
        if len(fields.get("short_description", "")) > 60:
            errors.append('"short_description" is too long')
        languages = fields.get("language", [])
        for language in [languages] if isinstance(languages, str) else languages:
            if not re.fullmatch("[a-z]{2,3}", str(language)):
                errors.append(f'"language" ({language}) must be a code of ISO 639, see "language_bcp47"')
        status = 400 if errors else 200
        if self.headers.get("Accept") == "text/plain":
            return status, "\n".join(f"- Error: {error}" for error in errors).encode(), {"Content-Type": "text/plain"}
        return status, {"errors": [{"message": error} for error in errors], "warnings": []}, {}

    def _repo(
        self, repo: Repo, parts: list[str], query: dict[str, list[str]], body: bytes, account: Account | None
    ) -> tuple[int, Any, dict[str, str]]:
        action, *rest = parts or ["revision", "main"]
        if action == "revision":
            return 200, self._info(repo, repo.at(rest[0]), "blobs" in query), {}
        if action == "tree":
            return self._tree(repo.at(rest[0]), query)
        if action == "paths-info":
            asked, tree = parse_qs(body.decode())["paths"], repo.at(rest[0]).tree
            return 200, [tree[path].entry(path) for path in asked if path in tree], {}
        if action == "commits":
            answer = [
                {"id": c.oid, "title": c.title, "message": c.message, "authors": [{"user": c.author}], "date": c.date}
                for c in repo.history(rest[0])
            ]
            return 200, answer, {}
        if action == "runtime":
            return 200, self.server.spaces.runtime(repo), {}
        if action == "logs":
            return 200, self.server.spaces.log(repo, rest[0]), {"Content-Type": "text/event-stream"}
        self._may_write(repo, account)
        if action == "preupload":
            return 200, self._preupload(repo, rest[0], json.loads(body)), {}
        if action == "xet-write-token":
            token = {"accessToken": "short-lived", "exp": int(time.time()) + 3600, "casUrl": f"{ADDRESS}/xet"}
            return 200, token, {}
        if action == "hardware":
            return self._hardware(repo, json.loads(body)["flavor"], account)
        if action == "commit":
            return self._commit(repo, rest[0], "create_pr" in query, body, account)
        raise Refused(404, f"the stand-in does not know {action}")

    def _info(self, repo: Repo, commit: Commit, blobs: bool) -> dict[str, Any]:
        answer = {"_id": repo.name, "id": repo.name, "sha": commit.oid, "private": repo.settings.get("private", False)}
        siblings = [blob.sibling(path) if blobs else {"rfilename": path} for path, blob in commit.tree.items()]
        answer |= {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        if repo.kind == "spaces":
            answer |= {"sdk": repo.settings["sdk"], "subdomain": repo.name.replace("/", "-")}
            answer |= {"host": self.server.spaces.host(repo), "runtime": self.server.spaces.runtime(repo)}
        return answer

    def _tree(self, commit: Commit, query: dict[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        """Returns ten entries per page, so that tests notice a client that reads only one page."""
        entries = [blob.entry(path) for path, blob in sorted(commit.tree.items())]
        folders = {path.rsplit("/", 1)[0] for path in commit.tree if "/" in path}
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in sorted(folders)] + entries
        start = int(query.get("cursor", ["0"])[0])
        path = self.path.split("?")[0]
        more = {"Link": f'<{ADDRESS}{path}?recursive=true&cursor={start + 10}>; rel="next"'}
        return 200, entries[start : start + 10], more if start + 10 < len(entries) else {}

    def _preupload(self, repo: Repo, revision: str, request: dict[str, Any]) -> dict[str, Any]:
        tree, answers = repo.at(revision).tree, []
        for file in request["files"]:
            path, large = file["path"], repo.is_large(file["path"], file["size"], revision)
            answer = {"path": path, "uploadMode": "lfs" if large else "regular"}
            answer["shouldIgnore"] = repo.is_ignored(path, request.get("gitIgnore"))
            if path in tree:
                answer["oid"] = tree[path].sha256 if tree[path].lfs else tree[path].oid
            answers.append(answer)
        return {"files": answers}

    def _commit(
        self, repo: Repo, revision: str, pull_request: bool, body: bytes, account: Account | None
    ) -> tuple[int, Any, dict[str, str]]:
        if self.server.before_commit:
            self.server.before_commit(repo)
        lines = [json.loads(line) for line in body.splitlines()]
        number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
        ref = f"refs/pr/{number}" if pull_request else None
        made = repo.commit(lines, account.name if account else "", revision, ref)
        prefix = f"{ADDRESS}/{'spaces/' if repo.kind == 'spaces' else ''}{repo.name}"
        answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{prefix}/commit/{made.oid}", "hookOutput": ""}
        if pull_request:
            answer["pullRequestUrl"] = f"{prefix}/discussions/{number}"
        elif repo.kind == "spaces":
            self.server.spaces.build(repo)
        return 200, answer, {}

    def _hardware(self, repo: Repo, flavor: str, account: Account | None) -> tuple[int, Any, dict[str, str]]:
        if flavor != "zero-a10g" and not (account and account.paid):
            raise Refused(402, PAYMENT)
        repo.settings["hardware"] = flavor
        return 200, self.server.spaces.runtime(repo), {}

    def _lfs(self, repo: Repo, action: str, request: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if action == "verify":
            return (200 if len(self.server.stored.get(request["oid"], b"")) == request["size"] else 404), {}, {}
        prefix = "spaces/" if repo.kind == "spaces" else ""
        objects = []
        for wanted in request["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            if oid in self.server.stored:
                objects.append({"oid": oid, "size": size})
                continue
            upload: dict[str, Any] = {"href": f"{STORAGE}/storage/{oid}"}
            if size > self.server.part_size:
                count = -(-size // self.server.part_size)
                upload = {
                    "href": f"{STORAGE}/storage/{oid}/complete",
                    "header": {"chunk_size": str(self.server.part_size)},
                }
                upload["header"] |= {f"{n:05}": f"{STORAGE}/storage/{oid}/{n}" for n in range(1, count + 1)}
            verify = {"href": f"{ADDRESS}/{prefix}{repo.name}.git/info/lfs/objects/verify"}
            objects.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _storage(self, parts: list[str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        oid, *rest = parts
        if self.command == "GET":
            return 200, self.server.stored[oid], {"ETag": f'"{oid}"'}
        if rest and rest[0] != "complete":
            self.server.parts.setdefault(oid, {})[int(rest[0])] = body
            return 200, {}, {"ETag": hashlib.md5(body).hexdigest()}
        data = b"".join(part for _, part in sorted(self.server.parts.pop(oid, {}).items())) if rest else body
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "the upload is not the file that was announced")
        self.server.stored[oid] = data
        return 200, {}, {}

    def _xet(self, parts: list[str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        if self.headers.get("Authorization") != "Bearer short-lived":
            raise Refused(401, "this is not a token of the storage")
        if self.command == "POST" and "xorbs" in parts:
            self.server.xet.add_xorb(parts[-1], body)
            return 200, {"was_inserted": True}, {}
        if self.command == "POST" and parts in (["v1", "shards"], ["shards"]):  # v2 is missing, so clients use v1
            try:
                self.server.xet.add_shard(body)
            except KeyError as error:
                raise Refused(400, f"the shard needs a xorb that is not here: {error}") from error
            return 200, {"result": 1}, {}
        raise Refused(404, "no such chunk is known")

    def _resolve(self, repo: Repo, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        commit = repo.at(revision)
        if path not in commit.tree:
            raise Refused(404, "Entry not found", "EntryNotFound")
        blob = commit.tree[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"'}
        if not blob.lfs:
            return 200, blob.data, headers
        headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-ETag": f'"{blob.sha256}"'}
        return 302, b"", headers | {"Location": f"{STORAGE}/storage/{blob.sha256}"}


@contextmanager
def running(folder: Path) -> Iterator[Hub]:
    """Runs an empty Hub. It builds Spaces in `folder`."""
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.spaces.stop()
            hub.shutdown()
            thread.join()
            for connection in hub.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
