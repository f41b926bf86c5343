"""A folder that is not one to be replaced is refused before the work, and nothing in it or beside it changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from train.__main__ import main
from train.export.__main__ import main as export
from train.output import require_artifact_folder, require_export_folder

CHOOSE = "choose another --out, such as artifacts/NAME"
REPLACE = "choose another --out, or give --replace"
ARTIFACTS = "classic, pocket, storyteller, ..."


@pytest.fixture
def project(tmp_path: Path, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder around the working one, which has artifacts and folders of other things."""
    here = tmp_path / "project"
    for folder in ("empty", "site", "code", "repository/.git", "new", "artifacts", "models"):
        (here / folder).mkdir(parents=True)
    for name in ("classic", "pocket", "storyteller", "tuned"):
        (here / "models" / name).symlink_to(tiny_artifact)
    shutil.copytree(tiny_artifact, here / "artifacts/pocket")
    (here / "site/config.json").write_text('{"title": "mine"}')
    (here / "site/README.md").write_text("mine")
    (here / "README.md").write_text("mine")
    (here / "code/main.py").write_text("")
    (here / "new/.DS_Store").write_text("")
    (here / "loose").symlink_to("gone")
    (here / "text.txt").write_text("Tim ran.\n")
    monkeypatch.chdir(here)
    return here


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.parent.rglob("*"))}


NEVER = [
    (".", ". is the folder that this command runs in, or one around it"),
    ("..", ".. is the folder that this command runs in, or one around it"),
    ("/", "/ is the folder that this command runs in, or one around it"),
    ("site/..", "site/.. is the folder that this command runs in, or one around it"),
    ("loose", "loose is a link to gone, which does not exist"),
    ("artifacts/pocket/x", "artifacts/pocket/x is inside {}/artifacts/pocket, which is an artifact itself"),
    ("models", f"models holds artifacts ({ARTIFACTS})"),
]
NEVER_SHOWN = [
    ("artifacts", "artifacts holds artifacts (pocket)"),
    ("artifacts/.mine", "artifacts/.mine has a name that the page and --list pass over"),
    ("artifacts/default", "artifacts/default has a name that the page and --list pass over"),
]


@pytest.mark.parametrize(("out", "trouble"), [*NEVER, *NEVER_SHOWN])
@pytest.mark.parametrize("replace", [[], ["--replace"]], ids=["", "replace"])
def test_a_run_never_replaces(
    out: str, trouble: str, replace: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(project)
    assert main(["--preset", "debug", "--data", "text.txt", "--out", out, *replace]) == 2
    assert capsys.readouterr() == ("", f"error: {trouble.format(project)}; {CHOOSE}\n")
    assert snapshot(project) == before


@pytest.mark.parametrize(
    ("out", "trouble"),
    [
        ("site", "site cannot be read as an artifact (site/config.json has format None, and this program reads format "
         "1; restore the folder from where it came, or train the model again)"),
        ("code", "code is not an artifact: it holds main.py"),
        ("repository", "repository is not an artifact: it holds .git"),
    ],
)  # fmt: skip
def test_a_run_replaces_a_folder_of_something_else_only_when_asked(
    out: str, trouble: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(project)
    assert main(["--preset", "debug", "--data", "text.txt", "--out", out]) == 2
    assert capsys.readouterr() == ("", f"error: {trouble}; {REPLACE}\n")
    assert snapshot(project) == before
    require_artifact_folder(Path(out), "text.txt", replace=True)


def test_the_folder_of_the_artifacts_is_refused_while_it_is_empty(project: Path) -> None:
    shutil.rmtree("artifacts/pocket")
    with pytest.raises(ValueError, match=r"^artifacts is the folder that holds the artifacts; choose another --out"):
        require_artifact_folder(Path("artifacts"), "text.txt", replace=True)


def test_a_mounted_disk_cannot_be_renamed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(project / "empty"))
    with pytest.raises(ValueError, match=r"^empty is a disk of its own \(a mount point\), which cannot be replaced as"):
        require_artifact_folder(Path("empty"), "text.txt", replace=True)


def test_a_new_or_an_empty_folder_is_fine(project: Path) -> None:
    for out in ("fresh", "far/away", "empty", "new", "artifacts/mine", str(project.parent / "beside")):
        require_artifact_folder(Path(out), "text.txt", replace=False)
    assert not Path("fresh").exists()


def test_the_page_can_open_with_the_name_of_the_result(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("two\nlines", " blank", os.fsdecode(b"caf\xe9")):
        assert main(["--preset", "debug", "--data", "text.txt", "--out", f"artifacts/{name}", "--default"]) == 2
        fit = f"error: --default needs a name that fits on one line, not {name!r}; {CHOOSE}\n"
        assert capsys.readouterr() == ("", fit)
        require_artifact_folder(Path("artifacts", name), "text.txt", replace=False)


@pytest.mark.parametrize(
    ("out", "trouble"),
    [
        ("loose", "loose is a link to gone, which does not exist"),
        ("artifacts/pocket", "artifacts/pocket holds an artifact, which the export would damage"),
        ("artifacts/pocket/x", "artifacts/pocket/x is inside {}/artifacts/pocket, which is an artifact itself"),
        (".", ". is the folder that this command runs in, or one around it"),
        ("..", ".. is the folder that this command runs in, or one around it"),
        ("site", "site is not an earlier export, and its README.md would be replaced"),
        ("text.txt", "text.txt is a file"),
    ],
)
def test_an_export_is_refused(
    out: str, trouble: str, project: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(project)
    assert export([str(tiny_artifact), "--to", "transformers", out]) == 2
    assert capsys.readouterr() == ("", f"error: {trouble.format(project)}; give a folder of its own\n")
    assert snapshot(project) == before


def test_an_export_may_lie_beside_other_files_and_be_repeated(project: Path) -> None:
    for names in (["config.json", "README.md"], ["main.html"]):
        require_export_folder(project / "site", names)
    for out in ("fresh", "empty", "code", "repository"):
        require_export_folder(Path(out), ["config.json"])
