"""train.push against the stand-in Hub: each refusal with its message, and what the Hub then holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from serving import save_tiny
from stand_in_hub import ADDRESS, Account, Fault, Hub

from train import deploy
from train.deploy import Space, compare
from train.space import Contents, PushError, gather

TOKEN = "hf_" + "Abcdefghij" * 3 + "Klmn"  # of nobody
NAME = "ann/stories"
URL = f"{ADDRESS}/spaces/{NAME}"


@pytest.fixture(scope="module")
def contents(tiny_onnx: Path) -> Contents:
    """What a Space with one tiny model holds."""
    return gather([tiny_onnx])


@pytest.fixture(scope="module")
def retrained(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """The same after another training: other weights, without a graph."""
    folder = tmp_path_factory.mktemp("retrained") / "tiny"
    save_tiny(folder, nats=1.0, ends=True)
    return gather([folder])


@pytest.fixture
def account(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Who is logged in."""
    hub.accounts[TOKEN] = Account("ann")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub.accounts[TOKEN]


@pytest.fixture
def space(hub: Hub, account: Account) -> Space:
    return Space(NAME, TOKEN, say=lambda text: None)


def pushed(space: Space, contents: Contents) -> None:
    """A push that goes well."""
    space.push(contents.files, space.head() or space.create("zero-a10g", False), "Push")


def refused(action, *arguments, **options) -> str:
    with pytest.raises(PushError) as error:
        action(*arguments, **options)
    return str(error.value)


def test_a_push_is_one_commit_of_exactly_these_files(hub: Hub, space: Space, contents: Contents) -> None:
    head = space.create("zero-a10g", False)
    made = space.push(contents.files, head, "The first")
    repo = hub.space(NAME)
    attributes = {".gitattributes": repo.files()[".gitattributes"]}  # a new repository has it
    assert repo.files() == contents.files | attributes
    assert [commit.title for commit in repo.history()] == ["The first", "initial commit"]
    assert repo.at().oid == made.oid and repo.at().parents == (head.commit,)
    large = {path for path, blob in repo.at().tree.items() if blob.lfs}
    assert large == {"artifacts/tiny/model.safetensors", "artifacts/tiny/model.onnx"}
    assert repo.settings == {"hardware": "zero-a10g", "sdk": "gradio", "private": False}


def test_the_next_push_replaces_and_deletes_in_one_commit(
    hub: Hub, space: Space, contents: Contents, retrained: Contents
) -> None:
    pushed(space, contents)
    repo = hub.space(NAME)
    theirs = {"notes/mine.txt": b"mine", ".gitignore": b"artifacts/\n*.json\n"}
    repo.put(theirs | {"artifacts/old/config.json": b"{}", "model/gone.py": b""})
    before = repo.at()
    changes = compare(retrained.files, space.head().files)
    space.push(retrained.files, space.head(), "The next")
    assert repo.files() == retrained.files | theirs | {".gitattributes": before.tree[".gitattributes"].data}
    assert repo.at().parents == (before.oid,)
    assert set(changes.deleted) == {"artifacts/old/config.json", "model/gone.py", "artifacts/tiny/model.onnx"}
    assert set(changes.added) == set()
    assert changes.changed["requirements.txt"] == len(retrained.files["requirements.txt"])
    assert not compare(retrained.files, space.head().files)


def test_a_large_file_comes_in_parts(hub: Hub, space: Space, contents: Contents) -> None:
    hub.part_size = 10_000
    pushed(space, contents)
    assert (
        hub.space(NAME).files()["artifacts/tiny/model.safetensors"]
        == contents.files["artifacts/tiny/model.safetensors"]
    )
    assert sum("/storage/" in request for request in hub.requests) > 10


def test_a_concurrent_push_is_refused(hub: Hub, space: Space, contents: Contents, retrained: Contents) -> None:
    pushed(space, contents)
    hub.before_commit = lambda repo: repo.put({"README.md": b"theirs"})
    message = refused(space.push, retrained.files, space.head(), "Mine")
    assert (
        message
        == f"{URL}: somebody else pushed at the same time; nothing was changed: look what it was, and push again"
    )
    files = hub.space(NAME).files()
    assert files["README.md"] == b"theirs"
    assert files["artifacts/tiny/model.safetensors"] == contents.files["artifacts/tiny/model.safetensors"]


PLAIN = "https://huggingface.co/settings/tokens"
CASES = [
    ("401", f"{URL}: the Hub does not know this token (the Hub says: Invalid credentials in Authorization header): log "
     f"in with `hf auth login`, or set HF_TOKEN to a token of {PLAIN}"),
    ("403", f"{URL}: this token may not write to ann (the Hub says: you must use a write token to upload to a "
     f"repository.): take one with write access from {PLAIN}, or push to a Space of your own"),
    ("429", f"{URL}: the Hub wants fewer requests; nothing was changed: push again in 900 seconds"),
    ("500", f"{URL}: the Hub has trouble (500); nothing was changed: push again later, "
     "https://status.huggingface.co tells more"),
    ("cut", f"{URL}: the connection to the Hub broke (Server disconnected without sending a response.); check the "
     "network and push again"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "message"), CASES, ids=[case for case, _ in CASES])
def test_what_the_hub_refuses_leaves_the_old_state(
    hub: Hub, space: Space, account: Account, contents: Contents, retrained: Contents, case: str, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pushed(space, contents)
    before, head = hub.space(NAME).at(), space.head()
    monkeypatch.setattr(deploy, "TRIES", 2)
    commit = r"^POST /api/spaces/ann/stories/commit/main"
    if case == "401":
        del hub.accounts[TOKEN]
    elif case == "403":
        account.writes = False
    elif case == "429":
        hub.faults.append(Fault(commit, 429, {"Retry-After": "900"}))
    else:
        hub.faults.append(Fault(commit, 0 if case == "cut" else 500, cut=case == "cut", times=2))
    assert refused(space.push, retrained.files, head, "Mine") == message
    assert hub.space(NAME).at() == before
    assert all(not fault.times for fault in hub.faults)


@pytest.mark.parametrize("fault", [
    Fault(r"^POST .*/commit/main", 429, {"Retry-After": "1"}),
    Fault(r"^POST .*/commit/main", 503),
    Fault(r"^POST .*/commit/main", cut=True),
    Fault(r"^POST .*/commit/main", cut=True, late=True),
    Fault(r"^PUT /storage/", cut=True),
    Fault(r"^POST .*/objects/batch", 429, {"Retry-After": "0"}),
    Fault(r"^POST .*/preupload/main", 500),
], ids=["429", "503", "cut", "answer lost", "cut in an upload", "429 before an upload", "500 before"])  # fmt: skip
def test_what_passes_is_tried_again(
    hub: Hub, space: Space, contents: Contents, retrained: Contents, fault: Fault
) -> None:
    pushed(space, contents)
    before, asked = hub.space(NAME).at(), replace(fault)
    hub.faults.append(asked)
    space.push(retrained.files, space.head(), "Mine")
    after = hub.space(NAME).at()
    assert asked.times == 0
    assert after.parents == (before.oid,), "exactly one commit"
    assert after.tree["artifacts/tiny/model.safetensors"].data == retrained.files["artifacts/tiny/model.safetensors"]
