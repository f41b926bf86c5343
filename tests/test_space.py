"""The checks of a push before it contacts the Hub: the files, the front matter, secrets, and the page itself."""

from __future__ import annotations

import http.server
import importlib
import re
import shutil
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import GPT, parts, random_weights
from serving import ROOT, save_broken, save_tiny

import model
from model import find
from model.artifacts import ArtifactError, save
from model.sampling import USUAL
from model.vocab import Vocab
from page import zerogpu
from train.push.contents import Contents, PushError, check, gather, secrets
from train.push.rehearsal import PROMPT, SEED, rehearse, tell

README = (ROOT / "README.md").read_text(encoding="utf-8")
TOKEN = "hf_" + "Zyxwvutsrq" * 3 + "Abcd"  # belongs to nobody


@pytest.fixture(scope="module")
def contents(tiny_onnx: Path) -> Contents:
    return gather([tiny_onnx])


def changed(contents: Contents, **files: str) -> Contents:
    """Returns the contents with another text in some files. In the argument names, _ stands for the dot."""
    return replace(contents, files=contents.files | {k.replace("_", "."): v.encode() for k, v in files.items()})


def refusal(action, *arguments, **options) -> str:
    with pytest.raises(PushError) as error:
        action(*arguments, **options)
    return str(error.value)


def test_the_repository_itself_can_be_pushed() -> None:
    contents = gather()
    check(contents, TOKEN)
    assert contents.artifacts == [it.name for it in find(ROOT / "artifacts")[0]]  # in the order of the page
    assert contents.need_torch == []


def test_it_is_the_page_the_model_package_and_the_artifacts(contents: Contents, tiny_onnx: Path) -> None:
    model = {f"model/{path.name}" for path in (ROOT / "model").glob("*.py")}
    artifact = {f"artifacts/tiny/{path.name}" for path in tiny_onnx.iterdir()}
    extra = {path for path in contents.files if not path.startswith(("model/", "artifacts/"))}
    assert contents.files.keys() == model | artifact | extra
    assert {"app.py", "README.md", "requirements.txt"} <= extra
    assert all(path.endswith((".py", ".md", ".txt", ".css", ".js", ".json")) for path in extra)
    assert not any(path.startswith(("train/", "tests/", "docs/")) for path in contents.files)
    assert all(contents.files[f"artifacts/tiny/{path.name}"] == path.read_bytes() for path in tiny_onnx.iterdir())


def test_a_checkout_of_git_for_windows_is_pushed_as_it_is_in_the_repository(
    contents: Contents, tiny_onnx: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_onnx, tmp_path / "artifacts" / "tiny")
    (tmp_path / "artifacts" / "default").write_bytes(b"tiny\r\n")
    for name in ("page", "model"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("app.py", "README.md", "requirements.txt", "requirements-page.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "page" / "icon.png").write_bytes(b"\0\r\n")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix not in (".safetensors", ".onnx", ".png"):
            path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    pushed = gather(root=tmp_path)
    extra = {"page/icon.png": b"\0\r\n", "artifacts/default": b"tiny\n"}
    assert pushed.files == contents.files | extra
    check(pushed)


def test_hidden_files_are_not_pushed(tmp_path: Path) -> None:
    for path, text in {
        "app.py": "import page.parts\n",
        "notes.py": "",
        "page/__init__.py": "",
        "page/looks/style.css": "body {}",
        "page/.env": "SECRET=1",
        "page/looks/.cache/old.css": "",
        "page/__pycache__/parts.pyc": "",
        "model/__init__.py": "",
        "train/__init__.py": "",
        "README.md": "",
        "requirements.txt": "torch==2\ngradio==6\n",
        "requirements-page.txt": "gradio==6\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    save_tiny(tmp_path / "artifacts" / "babble", nats=1.0, ends=True)
    files = gather(root=tmp_path).files
    page = {"app.py", "page/__init__.py", "page/looks/style.css", "model/__init__.py"}
    assert {path for path in files if not path.startswith("artifacts/")} == page | {"README.md", "requirements.txt"}


def test_requirements_are_lean_where_every_model_has_its_graph(contents: Contents, tiny_artifact: Path) -> None:
    lean = contents.files["requirements.txt"].decode()
    assert lean == (ROOT / "requirements-page.txt").read_text()
    assert {"gradio", "onnxruntime", "numpy", "safetensors"} <= set(re.findall(r"^\w+", lean, re.MULTILINE))
    assert not re.search(r"^(torch|spaces)", lean, re.MULTILINE)
    slow = gather([tiny_artifact])
    pin = re.search(r"^torch==.*\n", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[0]
    assert slow.files["requirements.txt"].decode() == lean + pin and slow.need_torch == ["tiny"]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("sdk: gradio\n", "sdk: docker\n", "sdk ('docker') must be gradio"),
    ("sdk: gradio\n", "", "sdk (None) must be gradio"),
    ("app_file: app.py", "app_file: main.py", "app_file ('main.py') is not among the files of the Space"),
    ("app_file: app.py", "app_file: [app.py]", "app_file (['app.py']) is not among the files of the Space"),
])  # fmt: skip
def test_front_matter_that_breaks_a_space(contents: Contents, old: str, new: str, message: str) -> None:
    # checked by the Hub, not by us
    check(changed(contents, README_md=README.replace("colorTo: yellow", "colorTo: teal", 1)))
    assert refusal(check, changed(contents, README_md=README.replace(old, new, 1))) == f"README.md: {message}"


@pytest.mark.parametrize("version", ["5.49.1", "7.0.0", "6.31", "6.99.0b1", "latest"])
def test_a_space_gets_one_version_of_gradio_that_the_page_works_with(contents: Contents, version: str) -> None:
    check(changed(contents, README_md=re.sub("sdk_version: .*", "sdk_version: 6.99.0", README)))
    message = refusal(check, changed(contents, README_md=re.sub("sdk_version: .*", f"sdk_version: {version}", README)))
    shown = version if version == "6.31" else repr(version)  # YAML reads 6.31 as a number
    assert message.startswith(f"README.md: sdk_version ({shown}) must be one version")
    assert message.endswith("that requirements.txt allows (gradio>=6.31,<7): the Hub installs exactly this one")


@pytest.mark.parametrize("requirements", ["numpy\n", "gradio[mcp]\n"])
def test_requirements_that_allow_any_gradio(contents: Contents, requirements: str) -> None:
    message = refusal(check, changed(contents, requirements_txt=requirements))
    assert message.startswith("requirements.txt must say which versions of gradio the page works with")


@pytest.mark.parametrize(("text", "message"), [
    (b"---\n- a list\n---\n", "repo card metadata block should be a dict"),
    (b"---\n5: a\n---\n", ".*keywords must be strings"),
    (b"---\na: [\n---\n", "while parsing a flow node expected the node content, but found '<stream end>' .*"),
    (b"---\ntitle: caf\xe9\n---\n", "'utf-8' codec can't decode byte 0xe9 in position 14: invalid continuation byte"),
])  # fmt: skip
def test_front_matter_that_cannot_be_read(contents: Contents, text: bytes, message: str) -> None:
    found = refusal(check, replace(contents, files=contents.files | {"README.md": text}))
    assert re.fullmatch(f"README.md: its front matter cannot be read: {message}", found)


def test_all_faults_are_reported_at_once(contents: Contents) -> None:
    files = {"app_py": f"TOKEN = '{TOKEN}'", "README_md": README.replace("sdk: gradio\n", "sdk: docker\n", 1)}
    assert refusal(check, changed(contents, **files)).splitlines() == [
        "README.md: sdk ('docker') must be gradio",
        "app.py contains a Hugging Face token: take it out, and revoke it",
    ]


@pytest.mark.parametrize(("text", "found"), [
    (f"x{TOKEN[:20]}", []), (f"'{TOKEN}'", ["a Hugging Face token"]), ("AKIA" + "A1" * 8, ["an AWS key"]),
    ("ghp_" + "a" * 36, ["a GitHub token"]), ("sk-" + "a" * 40, ["an API key"]),
    ("-----BEGIN RSA " + "PRIVATE KEY-----", ["a private key"]), ("hf_hub_download", []),
])  # fmt: skip
def test_secrets_are_found_by_their_form(text: str, found: list[str]) -> None:
    assert secrets(text.encode()) == found


def test_the_token_of_the_login_is_found_in_any_form() -> None:
    assert secrets(b"\0secret-word\0", "secret-word") == ["the token of this login"]


def test_an_artifact_is_named_or_a_folder(tiny_onnx: Path, tmp_path: Path) -> None:
    assert gather(["pocket", tiny_onnx]).artifacts == ["pocket", "tiny"]
    names = ", ".join(sorted(folder.name for folder in (ROOT / "artifacts").glob("[!.]*/")))
    fix = "did you mean pocket?"
    assert refusal(gather, ["poket"]) == f"artifact (poket) must be a folder, or one of {names}; {fix}"
    shutil.copytree(tiny_onnx, tmp_path / "tiny")
    assert refusal(gather, [tiny_onnx, tmp_path / "tiny"]) == "two artifacts are called tiny; rename one of the folders"
    (tmp_path / "artifacts").mkdir()
    assert refusal(gather, root=tmp_path) == (
        "there is nothing to push in artifacts/; train a model with: .venv/bin/python -m train --preset pocket"
    )


def test_a_broken_artifact_stops_the_push(tmp_path: Path, tiny_onnx: Path) -> None:
    save_broken(tmp_path / "broken")
    with pytest.raises(ArtifactError, match=r"broken/model\.safetensors is not the file that config\.json was saved"):
        gather([tmp_path / "broken"])
    shutil.copytree(tiny_onnx, tmp_path / "tiny")
    (tmp_path / "tiny" / "model.onnx").unlink()
    fix = f"write it with: .venv/bin/python -m train.export {tmp_path / 'tiny'} --to onnx$"
    with pytest.raises(ArtifactError, match=fix):  # the page would fall back to PyTorch, which the Space does not have
        gather([tmp_path / "tiny"])


def test_the_page_is_rehearsed_from_its_files_alone(contents: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    page = "import os, sys\nsys.exit(f'{sorted(os.listdir())}, {os.getenv(\"HF_TOKEN\")}')\n"
    expected = ["README.md", "app.py", "artifacts", "model", "page", "page.log", "requirements.txt"]
    message = refusal(rehearse, changed(contents, app_py=page))
    assert message == f"the page does not start:\n{expected}, None"


def test_the_rehearsal_uses_nothing_of_this_machine_s_network(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setenv("GRADIO_ROOT_PATH", "nonsense")
    monkeypatch.setenv("GRADIO_NUM_WORKERS", "many")
    vocab = Vocab.of_counts(Counter("从前有座山,山里有座庙。"))
    config = replace(GPT, vocab_size=len(vocab))
    save(tmp_path / "山", **parts(config) | {"vocab": vocab, "weights": random_weights(config)})
    folders = [tiny_onnx, tmp_path / "山"]
    settings = replace(USUAL, length=20, seed=SEED)
    expected = {
        folder.name: start + "".join(model.load(folder).tell(start, settings))
        for folder, start in zip(folders, (PROMPT, ""), strict=True)
    }
    assert rehearse(gather(folders), length=20) == expected


def test_a_page_is_sent_a_token_only_where_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, the client of Gradio sends the saved token to whoever serves the page."""
    seen: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers))
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        for token in (None, TOKEN):
            with pytest.raises(PushError, match=r"^the page told no story: .*(404|config)"):
                tell(f"http://127.0.0.1:{server.server_port}", token=token)
            assert any(TOKEN in headers for headers in seen) == bool(token)
        server.shutdown()


def test_one_function_is_marked_for_the_gpu_where_spaces_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spaces", None)  # how Python marks a module that cannot be imported
    assert zerogpu.register() is False
    monkeypatch.delitem(sys.modules, "spaces")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "spaces.py").write_text("marked = []\nGPU = marked.append\n")
    assert zerogpu.register() is True
    assert sys.modules["spaces"].marked == [zerogpu.on_the_gpu]
    monkeypatch.delitem(sys.modules, "spaces")
    (tmp_path / "spaces.py").write_text("import what_spaces_needs\n")
    importlib.invalidate_caches()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    with pytest.raises(ModuleNotFoundError, match="what_spaces_needs"):
        zerogpu.register()
