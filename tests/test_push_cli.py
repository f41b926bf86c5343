"""The whole of python -m train.push: train, push to the stand-in Hub, launch there, tell a story; and all options."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import parts
from huggingface_hub import snapshot_download
from serving import ROOT
from stand_in_hub import ADDRESS, Account, Hub
from stories import write_stories

import model
from model import artifacts
from model.sampling import USUAL
from train import __main__ as training
from train.push import __main__ as push
from train.push import rehearsal
from train.push import space as deploy
from train.push.contents import gather
from train.push.rehearsal import PROMPT, SEED, tell

TOKEN = "hf_" + "Qwertyuiop" * 3 + "Asdf"  # belongs to nobody
NAME = "ann/stories"
URL = f"{ADDRESS}/spaces/{NAME}"


@pytest.fixture(autouse=True)
def account(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The account that is logged in."""
    hub.accounts[TOKEN] = Account("ann")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(deploy, "RETRY_SECONDS", (0.01, 0.01))
    return hub.accounts[TOKEN]


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the runs of the page, here and on the Hub, in tests of something else."""
    monkeypatch.setattr(rehearsal, "rehearse", lambda contents: {})
    monkeypatch.setattr(rehearsal, "tell", lambda url, **settings: f"{PROMPT} there was a page.")


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Returns the exit code, stdout and stderr of a push. Checks that neither output contains the token."""
    code = push.main([str(each) for each in argv])
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    return code, out, err


def story_here(folder: Path, length: int) -> str:
    """Returns the story that the model in a folder tells in this process."""
    sampling = replace(USUAL, length=length, seed=SEED)
    return PROMPT + "".join(model.load(folder).tell(PROMPT, sampling))


def test_train_push_tell_retrain_push_tell(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps, twice. The Space tells the same stories as the model that was trained here."""
    hub.spaces.launches = True
    text, out, stories = write_stories(tmp_path / "stories.txt", 120), tmp_path / "debug", []
    for seed in (1, 2):
        argv = ["--preset", "debug", "--data", str(text), "--out", str(out), "--steps", "30", "--seed", str(seed)]
        assert training.main(argv) == 0
        capsys.readouterr()
        code, printed, err = run(capsys, NAME, "--artifact", out)
        assert code == 0, err
        assert printed.endswith(f"{URL}\n") and "  --> gradio[oauth]==" in printed
        space = Path(snapshot_download(NAME, repo_type="space", local_dir=tmp_path / "fetched", token=TOKEN))
        kept = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
        assert {path for path in kept if not path.startswith(".cache/")} == hub.space(NAME).files().keys()
        stories.append(tell(hub.spaces.host(hub.space(NAME)), model="debug", length=80))
        assert stories[-1] == story_here(space / "artifacts" / "debug", 80) == story_here(out, 80)
        assert "ZeroGPU: ready" in hub.spaces.state[NAME]["run"].read_text()
        monkeypatch.setattr(rehearsal, "rehearse", lambda contents: {})  # once is enough
    assert stories[0] != stories[1]
    assert [commit.title for commit in hub.space(NAME).history()] == [
        "Push the page and its models",
        "Push the page and its models",
        "initial commit",
    ]
    second, hub.spaces.launches = hub.space(NAME).history()[1].tree, False
    assert run(capsys, NAME, "--rollback", "--no-wait")[0] == 0 and hub.space(NAME).at().tree == second
    assert TOKEN.encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_a_dry_run_reads_and_tells_but_changes_nothing(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, NAME, "--artifact", tiny_onnx, "--dry-run")
    assert code == 0 and hub.repos == {}
    assert f"{URL}: is new\n" in out and out.endswith("nothing was changed: --dry-run\n")
    size = (tiny_onnx / "model.onnx").stat().st_size
    assert f"  + artifacts/tiny/model.onnx  {size:,} bytes\n" in out
    assert run(capsys, NAME, "--artifact", tiny_onnx)[0] == 0
    hub.space(NAME).put({"artifacts/old/config.json": b"{}", "app.py": b"older"})
    before = hub.space(NAME).at()
    hub.requests.clear()
    monkeypatch.delenv("HF_TOKEN")
    code, out, _ = run(capsys, NAME, "--artifact", tiny_onnx, "--dry-run")
    size = (ROOT / "app.py").stat().st_size
    assert f"  ~ app.py  {size:,} bytes\n  - artifacts/old/config.json  2 bytes\n" in out
    assert f"  0 added (0 bytes), 1 changed ({size:,} bytes), 1 deleted (2 bytes)\n" in out
    assert hub.space(NAME).at() == before
    assert {r for r in hub.requests if not r.startswith("GET ")} == {"POST /api/validate-yaml"}


def test_a_push_needs_no_pytorch() -> None:
    """The workflow that pushes from GitHub installs what the page needs, no more."""
    code = "import sys, train.push.__main__, train.push.rehearsal; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def several(tmp_path: Path, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three artifacts, of which one has learned almost nothing and one is a trial."""
    root = tmp_path / "project"
    for name in ("app.py", "page", "model", "README.md", "requirements.txt", "requirements-page.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(ROOT / name)
    for name, nats, preset in (("good", 1.5, "pocket"), ("trial", 1.0, "debug"), ("noise", 4.4, "pocket")):
        made = parts(nats=nats)
        data = {"data": {"name": "stories.txt"}, "evaluation": {"data": "valid.txt"}}
        artifacts.save(root / "artifacts" / name, **made | {"metrics": made["metrics"] | {"preset": preset} | data})
    monkeypatch.setattr(push, "gather", lambda artifacts: gather(artifacts, root))
    return root


def test_a_push_says_what_it_publishes_and_asks(
    hub: Hub, rehearsed: None, several: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, NAME, "--no-wait")
    assert code == 2 and hub.repos == {}
    size = sum(path.stat().st_size for path in (several / "artifacts/good").iterdir())
    assert out.splitlines()[:3] == [
        f"good: {size:,} bytes, trained on stories.txt, 1.5000 nats per character on valid.txt",
        "left out: noise (4.4000 nats per character: it has learned almost nothing); --artifact noise pushes it",
        "left out: trial (a trial of the preset debug); --artifact trial pushes it",
    ]
    assert err == "error: the Space does not have good yet: give --yes to publish them, or choose with --artifact\n"

    def answers(*given: str) -> None:
        asked = iter(given)
        monkeypatch.setattr("builtins.input", lambda question: next(asked))

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    answers("")
    assert run(capsys, NAME, "--no-wait")[0] == 2 and hub.repos == {}
    answers("y")
    assert run(capsys, NAME, "--no-wait")[0] == 0
    kept = {path.split("/")[1] for path in hub.space(NAME).files() if path.startswith("artifacts/")}
    assert kept == {"good"}
    answers()  # what the Space has is pushed again without a question, and so is what was named
    assert run(capsys, NAME, "--no-wait")[0] == 0
    assert run(capsys, NAME, "--no-wait", "--artifact", "noise", "good")[0] == 0
    model.write_default(several / "artifacts", "good")
    assert run(capsys, NAME, "--no-wait", "--yes")[0] == 0
    kept = {path.split("/")[1] for path in hub.space(NAME).files() if path.startswith("artifacts/")}
    assert kept == {"good", "default"}


def test_a_second_push_of_the_same_makes_no_commit(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, NAME, "--artifact", tiny_onnx, "--message", "The first")[0] == 0
    before = hub.space(NAME).at()
    assert before.title == "The first"
    code, out, _ = run(capsys, NAME, "--artifact", tiny_onnx)
    assert code == 0 and out.endswith("the Space holds all this already\n")
    assert hub.space(NAME).at() == before


def test_hardware_that_is_refused_leaves_the_page(
    hub: Hub, rehearsed: None, tiny_onnx: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, NAME, "--artifact", tiny_onnx)[0] == 0
    before = hub.space(NAME).at()
    code, _, err = run(capsys, NAME, "--artifact", tiny_artifact, "--hardware", "t4-small")
    assert code == 2 and "the Hub refused (402: " in err and hub.space(NAME).at() == before
    hub.accounts[TOKEN].paid = True
    assert run(capsys, NAME, "--artifact", tiny_artifact, "--hardware", "t4-small")[0] == 0
    assert hub.space(NAME).settings["hardware"] == "t4-small" and hub.space(NAME).at().parents == (before.oid,)


def test_a_build_that_fails_shows_its_last_lines_and_the_rollback_command(
    hub: Hub, rehearsed: None, tiny_onnx: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, NAME, "--artifact", tiny_onnx)[0] == 0
    good = hub.space(NAME).at()
    lines = [f"line {i}" for i in range(30)] + [f"HF_TOKEN={TOKEN}", "ERROR: No matching distribution found for gradio"]
    hub.spaces.fails = "".join(f"{line}\n" for line in lines)
    code, _, err = run(capsys, NAME, "--artifact", tiny_artifact)
    assert code == 1
    shown = [f"  {line}" for line in [*lines[12:30], "HF_TOKEN=(the token)", lines[-1]]]
    back = f".venv/bin/python -m train.push {NAME} --rollback restores the state before the push"
    assert err.splitlines()[-22:] == [f"error: {URL}: the build failed", *shown, back]
    assert hub.space(NAME).at().parents == (good.oid,)
    hub.spaces.fails = None
    code, out, _ = run(capsys, NAME, "--rollback")
    assert code == 0 and out.startswith(f"rolled back: {URL}/commit/{hub.space(NAME).at().oid}\n")
    assert hub.space(NAME).at().tree == good.tree


def test_a_page_that_crashes_on_the_hub_shows_its_log(
    hub: Hub, rehearsed: None, tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho ImportError: no module named gradio >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    hub.spaces.launches, hub.spaces.python = True, str(tmp_path / "python")
    code, _, err = run(capsys, NAME, "--artifact", tiny_onnx)
    assert code == 1
    assert (
        f"error: {URL}: the page crashed\n  ImportError: no module named gradio\n.venv/bin/python -m train.push" in err
    )


def test_refusals_change_nothing_and_exit_with_2(
    hub: Hub, rehearsed: None, tiny_onnx: Path, account: Account, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    def refusal(*argv: object, name: str = NAME) -> str:
        code, _, err = run(capsys, name, "--artifact", tiny_onnx, *argv)
        assert code == 2 and hub.repos == {}
        return err

    assert "push to a Space of your own" in refusal(name="bob/stories")
    assert f"{URL}: the Hub refused (402: Static Spaces are free" in refusal("--hardware", "cpu-basic")
    account.writes = False
    assert f"{URL}: the Hub refused (403: " in refusal()
    del hub.accounts[TOKEN]
    assert f"{URL}: the Hub refused (401: " in refusal()
    monkeypatch.delenv("HF_TOKEN")
    assert refusal() == (
        "error: there is no token: log in with `hf auth login`, or set HF_TOKEN "
        "(https://huggingface.co/settings/tokens, with write access)\n"
    )


def test_a_front_matter_that_the_hub_refuses_makes_no_space(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = gather([tiny_onnx])
    contents.files["README.md"] = contents.files["README.md"].replace(b"colorTo: yellow", b"colorTo: teal")
    monkeypatch.setattr(push, "gather", lambda artifacts: contents)
    for flags in ([], ["--dry-run"]):
        code, _, err = run(capsys, NAME, *flags)
        assert code == 2 and hub.repos == {}
        assert err == (
            f'error: {URL}: README.md: the Hub refused (400: - Error: "colorTo" must be one of [red, yellow, green, '
            "blue, indigo, purple, pink, gray]): fix that and push again\n"
        )


def test_a_private_space_stays_what_it_is(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[object] = []
    monkeypatch.setattr(rehearsal, "tell", lambda url, **settings: used.append(settings["token"]) or f"{PROMPT}!")
    assert run(capsys, "ann/hidden", "--artifact", tiny_onnx, "--private")[0] == 0
    assert hub.space("ann/hidden").settings["private"] and used == [TOKEN]
    assert run(capsys, NAME, "--artifact", tiny_onnx)[0] == 0 and used == [TOKEN, None]
    code, _, err = run(capsys, NAME, "--artifact", tiny_onnx, "--private")
    assert code == 2 and f"{URL} exists and is public: change that in {URL}/settings, or drop --private" in err


def test_a_pull_request_and_no_wait(
    hub: Hub, rehearsed: None, tiny_onnx: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, NAME, "--artifact", tiny_onnx, "--no-wait")
    assert code == 0 and out.splitlines()[-1] == f"committed: {URL}/commit/{hub.space(NAME).at().oid}"
    before = hub.space(NAME).at()
    code, out, _ = run(capsys, NAME, "--artifact", tiny_artifact, "--pull-request")
    assert code == 0 and out.endswith(f"proposed: {URL}/discussions/1\n")
    assert hub.space(NAME).at() == before and hub.space(NAME).at("refs/pr/1").parents == (before.oid,)
    assert not any("/logs/" in request for request in hub.requests)
    assert (
        "the Space must install PyTorch" in out and ".venv/bin/python -m train.export artifacts/tiny --to onnx" in out
    )


def test_a_model_is_published_too(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, NAME, "--artifact", tiny_onnx, "--model", "ann/tiny")
    files = hub.repos["models", "ann/tiny"].files()
    assert code == 0 and "published tiny: " in out
    assert {name: data for name, data in files.items() if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in tiny_onnx.iterdir()
    }
    code, _, err = run(capsys, NAME, "--artifact", tiny_onnx, "--model", "bob/tiny")
    assert code == 2 and f"error: {ADDRESS}/bob/tiny: the Hub refused (403: " in err


def test_a_model_that_cannot_be_published_leaves_the_page(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the page is refused, the model is not published either."""
    code, out, err = run(capsys, NAME, "--artifact", tiny_onnx, "--model", "bob/tiny", "--private")
    assert code == 1 and "committed: " in out and "the Hub refused (403: " in err
    hub.before_commit = lambda repo: repo.put({"README.md": b"theirs"}) if repo.kind == "spaces" else None
    code, _, err = run(capsys, "ann/other", "--artifact", tiny_onnx, "--model", "ann/tiny")
    assert code == 2 and "the Hub refused (412: " in err and ("models", "ann/tiny") not in hub.repos


def test_the_model_of_a_private_or_proposed_page_is_private_or_proposed_too(
    hub: Hub, rehearsed: None, tiny_onnx: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, NAME, "--artifact", tiny_onnx, "--model", "ann/tiny", "--private")[0] == 0
    published = hub.repos["models", "ann/tiny"]
    assert published.settings["private"]
    before = published.at()
    code, out, _ = run(capsys, NAME, "--artifact", tiny_artifact, "--model", "ann/tiny", "--pull-request")
    assert code == 0 and "proposed tiny: " in out and published.at() == before


def test_artifacts_add_up_and_a_dry_run_tells_all(
    hub: Hub, rehearsed: None, tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(tiny_onnx, tmp_path / "other"))
    flags = ("--artifact", tiny_onnx, "--artifact", other, "--model", "ann/tiny", "--dry-run")
    code, out, _ = run(capsys, NAME, *flags)
    assert code == 0 and "artifacts/tiny/config.json" in out and "artifacts/other/config.json" in out
    assert "would run on zero-a10g" in out and "would publish ann/tiny" in out and hub.repos == {}


def test_a_rollback_of_the_first_push_does_not_wait_for_a_page(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, NAME, "--artifact", tiny_onnx)[0] == 0
    code, out, err = run(capsys, NAME, "--rollback")
    assert (
        code == 0
        and err == ""
        and out.endswith("there was no page before the first push, so there is nothing to wait for\n")
    )


def test_another_page_is_replaced_with_the_flag(
    hub: Hub, rehearsed: None, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy.Space(NAME, TOKEN).create("zero-a10g", False)
    hub.space(NAME).put({"app.py": b"theirs"})
    before = hub.space(NAME).at()
    for flags in ([], ["--dry-run"]):
        code, _, err = run(capsys, NAME, "--artifact", tiny_onnx, *flags)
        assert code == 2 and "a push would replace app.py: --pull-request" in err and hub.space(NAME).at() == before
    assert run(capsys, NAME, "--artifact", tiny_onnx, "--replace")[0] == 0
    assert hub.space(NAME).files()["app.py"] == (ROOT / "app.py").read_bytes()


@pytest.mark.parametrize(("argv", "message"), [
    (["stories"], "argument user/space: ('stories') must be user/name, as in https://huggingface.co/user/name"),
    ([NAME, "--pull-request", "--hardware", "t4-small"],
     "--pull-request cannot be combined with --hardware: a proposal does not change the Space"),
    ([NAME, "--rollback", "--dry-run"], "--rollback cannot be combined with --dry-run"),
    ([NAME, "--hardware", "zero-a10"], r"argument --hardware: invalid choice: 'zero-a10' \(choose .*zero-a10g.*\)"),
    ([NAME, "--dryrun"], "unknown flag --dryrun; did you mean --dry-run?"),
])  # fmt: skip
def test_flags_that_do_not_fit(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        push.main(argv)
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err == f"error: {message}\n" or re.fullmatch(f"error: {message}\n", err)


def test_a_rollback_needs_a_space(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, NAME, "--rollback")
    assert code == 2 and err == (
        f"error: {URL}: the Hub refused (404: Repository not found): check the name, and that the token may see it\n"
    )


@pytest.mark.parametrize(("story", "first"), [
    ("Once upon a time. Then", "Once upon a time."), ('"Hi!" he said', '"Hi!"'), ("No end here", "No end here ..."),
    ("Mr.Fox ran\nhome. The", "Mr.Fox ran home."), ("从前有一只狐狸。它说", "从前有一只狐狸。"),
    ("“बस।” वह", "“बस।”"),
])  # fmt: skip
def test_the_first_sentence(story: str, first: str) -> None:
    assert push.sentence(story) == first
