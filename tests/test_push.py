"""train.push against the stand-in Hub: the message of each refusal, and the state of the Hub after it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hub_git import Blob, Repo
from huggingface_hub import constants
from serving import save_tiny
from stand_in_hub import ADDRESS, Account, Fault, Hub

from train.push import space as deploy
from train.push.contents import Contents, PushError, gather
from train.push.errors import TOKENS, as_push_errors
from train.push.space import Space, compare

TOKEN = "hf_" + "Abcdefghij" * 3 + "Klmn"  # belongs to nobody
NAME = "ann/stories"
URL = f"{ADDRESS}/spaces/{NAME}"
CONFLICT = (
    "the Hub refused (412: A commit has happened since. Please refresh and try again.): somebody else pushed at the "
    "same time; nothing was overwritten: look at that change, and push again"
)


@pytest.fixture(scope="module")
def contents(tiny_onnx: Path) -> Contents:
    """The contents of a Space with one tiny model."""
    return gather([tiny_onnx])


@pytest.fixture(scope="module")
def retrained(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """The contents after another training: other weights, and no graph."""
    folder = tmp_path_factory.mktemp("retrained") / "tiny"
    save_tiny(folder, nats=1.0, ends=True)
    return gather([folder])


@pytest.fixture
def account(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The account that is logged in."""
    hub.accounts[TOKEN] = Account("ann")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub.accounts[TOKEN]


@pytest.fixture
def printed() -> list[str]:
    """The lines that the Space object prints."""
    return []


@pytest.fixture
def space(hub: Hub, account: Account, printed: list[str], monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr(deploy, "RETRY_SECONDS", (0.01, 0.01))
    return Space(NAME, TOKEN, say=printed.append)


def push(space: Space, contents: Contents) -> None:
    """Pushes without an error."""
    space.push(contents.files, space.head() or space.create("zero-a10g", False), "Push")


def refusal(action, *arguments, **options) -> str:
    """Returns the message that the user sees when the action is refused."""
    with pytest.raises(PushError) as error, as_push_errors(URL):
        action(*arguments, **options)
    return str(error.value)


def test_a_package_that_a_proxy_needs_is_named() -> None:
    def without_socks() -> None:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    cause = "Using SOCKS proxy, but the 'socksio' package is not installed."
    assert refusal(without_socks) == f"{URL}: the request to the Hub failed ({cause}): check the network and push again"


def test_a_push_is_one_commit_of_exactly_these_files(hub: Hub, space: Space, contents: Contents) -> None:
    head = space.create("zero-a10g", False)
    made = space.push(contents.files, head, "The first")
    repo = hub.space(NAME)
    attributes = {".gitattributes": repo.files()[".gitattributes"]}  # a new repository has it
    assert repo.files() == contents.files | attributes
    assert [commit.title for commit in repo.history()] == ["The first", "initial commit"]
    assert repo.at().oid == made.oid and repo.at().parents == (head.sha,)
    large = {path for path, blob in repo.at().tree.items() if blob.lfs}
    assert large == {"artifacts/tiny/model.safetensors", "artifacts/tiny/model.onnx"}
    assert repo.settings == {"hardware": "zero-a10g", "sdk": "gradio", "private": False}


def test_the_next_push_replaces_and_deletes_in_one_commit(
    hub: Hub, space: Space, contents: Contents, retrained: Contents
) -> None:
    push(space, contents)
    repo = hub.space(NAME)
    kept = {"notes/mine.txt": b"mine", ".gitignore": b"artifacts/\n*.json\n"}
    repo.put(kept | {"artifacts/old/config.json": b"{}", "model/gone.py": b""})
    before = repo.at()
    changes = compare(retrained.files, space.head())
    space.push(retrained.files, space.head(), "The next")
    assert repo.files() == retrained.files | kept | {".gitattributes": before.tree[".gitattributes"].data}
    assert repo.at().parents == (before.oid,)
    assert set(changes.deleted) == {"artifacts/old/config.json", "model/gone.py", "artifacts/tiny/model.onnx"}
    assert set(changes.added) == set()
    assert changes.changed["requirements.txt"] == len(retrained.files["requirements.txt"])
    assert not any(compare(retrained.files, space.head()))


def test_a_large_file_comes_in_parts(hub: Hub, space: Space, contents: Contents) -> None:
    hub.part_size = 10_000
    push(space, contents)
    assert (
        hub.space(NAME).files()["artifacts/tiny/model.safetensors"]
        == contents.files["artifacts/tiny/model.safetensors"]
    )
    assert sum("/storage/" in request for request in hub.requests) > 10


def test_large_files_go_to_xet_where_the_client_chooses_so(
    hub: Hub, space: Space, contents: Contents, retrained: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client uses xet by default. These tests set HF_HUB_DISABLE_XET, which this one undoes."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    for wanted in (contents, retrained):
        push(space, wanted)
        assert not any(compare(wanted.files, space.head()))
        path = "artifacts/tiny/model.safetensors"
        assert hub.space(NAME).at().tree[path] == Blob(wanted.files[path], lfs=True)
    assert sum("/xet/" in request and request.startswith("POST") for request in hub.requests) >= 4
    assert not any("/info/lfs/" in request for request in hub.requests)


def test_a_concurrent_push_is_refused(hub: Hub, space: Space, contents: Contents, retrained: Contents) -> None:
    push(space, contents)
    hub.before_commit = lambda repo: repo.put({"README.md": b"theirs"})
    assert refusal(space.push, retrained.files, space.head(), "Mine") == f"{URL}: {CONFLICT}"
    files = hub.space(NAME).files()
    assert files["README.md"] == b"theirs"
    assert files["artifacts/tiny/model.safetensors"] == contents.files["artifacts/tiny/model.safetensors"]


CASES = [
    ("401", "the Hub refused (401: Invalid credentials in Authorization header): log in with `hf auth login`, or set "
     f"HF_TOKEN to a token of {TOKENS}"),
    ("403", "the Hub refused (403: you must use a write token to upload to a repository.): take a token with write "
     f"access from {TOKENS}, or push to a Space of your own"),
    ("429", "the Hub refused (429: out of order, Retry-After: 900): push again later"),
    ("500", "the Hub refused (500: out of order): push again later; see https://status.huggingface.co"),
    ("cut", "the request to the Hub failed (Server disconnected without sending a response.): check the network "
     "and push again"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "message"), CASES, ids=[case for case, _ in CASES])
def test_a_refused_push_leaves_the_old_state(
    hub: Hub, space: Space, account: Account, contents: Contents, retrained: Contents, case: str, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    push(space, contents)
    before, head = hub.space(NAME).at(), space.head()
    monkeypatch.setattr(deploy, "RETRY_SECONDS", (0.01,))
    commit = r"^POST /api/spaces/ann/stories/commit/main"
    if case == "401":
        del hub.accounts[TOKEN]
    elif case == "403":
        account.writes = False
    elif case == "429":
        hub.faults.append(Fault(commit, 429, {"Retry-After": "900"}))
    else:
        hub.faults.append(Fault(commit, 0 if case == "cut" else 500, cut=case == "cut", times=2))
    assert refusal(space.push, retrained.files, head, "Mine") == f"{URL}: {message}"
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
def test_a_temporary_error_is_retried(
    hub: Hub, space: Space, printed: list[str], contents: Contents, retrained: Contents, fault: Fault
) -> None:
    push(space, contents)
    before, asked = hub.space(NAME).at(), replace(fault)
    hub.faults.append(asked)
    space.push(retrained.files, space.head(), "Mine")
    after = hub.space(NAME).at()
    assert asked.times == 0
    assert after.parents == (before.oid,), "exactly one commit"
    assert ("Retry-After" not in fault.headers or "commit" not in fault.match) or "trying again in 1 s" in printed[0]
    assert after.tree["artifacts/tiny/model.safetensors"].data == retrained.files["artifacts/tiny/model.safetensors"]


def test_a_refusal_of_the_storage_is_reported(
    hub: Hub, space: Space, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    head = space.create("zero-a10g", False)
    hub.faults.append(Fault("^POST /xet/", 400, times=99))
    message = refusal(space.push, contents.files, head, "Push")
    assert re.fullmatch(rf"{URL}: the request to the Hub failed \(.*400.*\): check the network and push again", message)
    assert hub.space(NAME).at().oid == head.sha


def test_a_third_space_on_zero_gpu_needs_a_paid_account(hub: Hub, space: Space, account: Account) -> None:
    for name in ("ann/one", "ann/two"):
        Space(name, TOKEN).create("zero-a10g", False)
    message = refusal(space.create, "zero-a10g", False)
    assert message.startswith(f"{URL}: the Hub refused (402: Static Spaces are free")
    assert message.endswith("a free account may hold two Spaces, on zero-a10g; for more see https://huggingface.co/pro")
    assert space.head() is None
    account.paid = True
    space.create("cpu-basic", True)
    assert hub.space(NAME).settings == {"hardware": "cpu-basic", "sdk": "gradio", "private": True}


def test_other_hardware_is_requested_only_once(hub: Hub, space: Space, account: Account) -> None:
    space.create("zero-a10g", False)
    assert "the Hub refused (402: " in refusal(space.move, "t4-small")
    account.paid = True
    for _ in range(2):
        space.move("t4-small")
    assert hub.space(NAME).settings["hardware"] == "t4-small"
    assert sum(request.endswith("/hardware") for request in hub.requests) == 2


def test_a_space_that_vanishes_is_named(hub: Hub, space: Space, contents: Contents) -> None:
    head = space.create("zero-a10g", False)
    hub.repos.clear()
    assert refusal(space.push, contents.files, head, "Push") == (
        f"{URL}: the Hub refused (404: Repository not found): check the name, and that the token may see it"
    )


def test_a_file_that_the_hub_lost_is_noticed(hub: Hub, space: Space, contents: Contents, retrained: Contents) -> None:
    push(space, contents)
    repo, apply, lost = hub.space(NAME), Repo._apply, "artifacts/tiny/config.json"
    repo._apply = lambda tree, change: change["path"] == lost or apply(repo, tree, change)
    message = refusal(space.push, retrained.files, space.head(), "Push")
    assert message == f"{URL}/commit/{repo.at().oid} does not hold what was pushed: look at that commit, and push again"


def test_a_pull_request_leaves_main_alone(hub: Hub, space: Space, contents: Contents, retrained: Contents) -> None:
    push(space, contents)
    before = hub.space(NAME).at()
    made = space.push(retrained.files, space.head(), "Mine", pull_request=True)
    repo = hub.space(NAME)
    assert repo.at() == before and repo.at("refs/pr/1").parents == (before.oid,)
    assert made.pr_url == f"{URL}/discussions/1"
    assert not any(compare(retrained.files, space.info("refs/pr/1")))


def test_rolling_back_restores_all_that_was_there(
    hub: Hub, space: Space, contents: Contents, retrained: Contents
) -> None:
    push(space, contents)
    hub.space(NAME).put({"artifacts/old/config.json": b"{}", "mine.txt": b"mine"})
    before = hub.space(NAME).at()
    push(space, retrained)
    assert "artifacts/old/config.json" not in hub.space(NAME).files()
    bad = hub.space(NAME).at()
    made = space.roll_back()
    after = hub.space(NAME).at()
    assert after.tree == before.tree and after.parents == (bad.oid,) and after.oid == made.oid
    assert after.title == f"Roll back to {before.oid[:12]}"


def test_rolling_back_again_goes_further_back(hub: Hub, space: Space, contents: Contents, retrained: Contents) -> None:
    push(space, contents)
    first = hub.space(NAME).at()
    push(space, retrained)
    space.roll_back()
    assert hub.space(NAME).at().tree == first.tree
    space.roll_back()  # undoes the first push too, and does not redo the second one
    assert list(hub.space(NAME).files()) == [".gitattributes", "README.md"]
    message = refusal(space.roll_back)
    assert message.endswith(f"('initial commit') was not pushed by this program: undo it in {URL}/commits")


def test_only_a_push_is_rolled_back(hub: Hub, space: Space, contents: Contents, retrained: Contents) -> None:
    push(space, contents)
    hub.space(NAME).put({"README.md": b"theirs"}, "Edit in the browser")
    assert refusal(space.roll_back) == (
        f"{URL}: the last change ('Edit in the browser') was not pushed by this program: undo it in {URL}/commits"
    )
    push(space, retrained)
    before = hub.space(NAME).at()
    hub.before_commit = lambda repo: repo.put({"README.md": b"theirs again"})
    assert "somebody else pushed at the same time" in refusal(space.roll_back)
    assert hub.space(NAME).at().parents == (before.oid,)


@pytest.mark.parametrize(("stage", "what"), [
    ("CONFIG_ERROR", "the README's settings are refused (bad sdk)"), ("NO_APP_FILE", "there is no app.py"),
    ("RUNTIME_ERROR", "the page crashed"), ("PAUSED", "paused: restart it in its settings"),
])  # fmt: skip
def test_a_space_that_does_not_run(
    hub: Hub, space: Space, contents: Contents, monkeypatch: pytest.MonkeyPatch, stage: str, what: str
) -> None:
    push(space, contents)
    monkeypatch.setattr(deploy, "LAG_SECONDS", 0)
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.01)
    state = hub.spaces.state[NAME]
    state |= {"stage": stage, "errorMessage": "bad sdk" if stage == "CONFIG_ERROR" else None}
    assert what in refusal(deploy.wait, space, hub.space(NAME).at().oid)


def test_a_page_of_an_older_commit_does_not_count_as_the_new_one(
    hub: Hub, space: Space, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(space, contents)
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deploy, "WAIT_MINUTES", 0.005)
    assert refusal(deploy.wait, space, "f" * 40) == f"{URL} does not run after 0.005 minutes; see its log there"
    assert deploy.wait(space, hub.space(NAME).at().oid).sha == hub.space(NAME).at().oid


@pytest.mark.parametrize("fault", [
    Fault("^GET .*/runtime", 500), Fault("^GET .*/runtime", 429, {"Retry-After": "0"}),
    Fault("^GET .*/runtime", cut=True),
], ids=["500", "429", "cut"])  # fmt: skip
def test_a_temporary_error_during_the_build_does_not_end_the_wait(
    hub: Hub, space: Space, contents: Contents, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    push(space, contents)
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.01)
    hub.faults.append(fault)
    assert deploy.wait(space, hub.space(NAME).at().oid).sha == hub.space(NAME).at().oid
    assert fault.times == 0
    hub.faults.append(Fault("^GET .*/runtime", 403))
    assert "the Hub refused (403: out of order)" in refusal(deploy.wait, space, "f" * 40)


def test_a_failed_build_is_reported_even_without_its_log(
    hub: Hub, space: Space, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.spaces.fails = "no such package"
    push(space, contents)
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.01)
    hub.faults.append(Fault("^GET .*/logs/", 500, times=9))
    message = refusal(deploy.wait, space, hub.space(NAME).at().oid)
    assert message.startswith(f"{URL}: the build failed\n  (the log cannot be read: ")
    assert message.endswith("--rollback restores the state before the push")


def test_the_failure_of_an_older_commit_is_not_attributed_to_the_new_one(
    hub: Hub, space: Space, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.spaces.fails = "no such package"
    push(space, contents)
    for name, value in (("POLL_SECONDS", 0.01), ("LAG_SECONDS", 0), ("WAIT_MINUTES", 0.005)):
        monkeypatch.setattr(deploy, name, value)
    assert refusal(deploy.wait, space, "f" * 40) == f"{URL} does not run after 0.005 minutes; see its log there"


def test_a_page_of_somebody_else_is_not_replaced_without_a_flag(hub: Hub, space: Space, contents: Contents) -> None:
    head = space.create("zero-a10g", False)
    space.require_ours(compare(contents.files, head))  # only the README.md that the Hub made
    hub.space(NAME).put(
        {"app.py": b"theirs", "model/weights.bin": b"1", "page/mine.html": b"2", "artifacts/a.pdf": b"3"}
    )
    changes = compare(contents.files, space.head())
    assert refusal(space.require_ours, changes) == (
        f"{URL} holds a page that this program did not push; a push would replace app.py, artifacts/a.pdf, "
        "model/weights.bin and 1 more: --pull-request proposes that, --replace does it"
    )
    push(space, contents)
    hub.space(NAME).put({"model/more.py": b"by hand"})
    space.require_ours(compare(contents.files, space.head()))
