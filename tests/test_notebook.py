"""The notebook for Colab and Kaggle runs from the first cell to the last, with preset debug and a stand-in Hub."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from hub_address import ADDRESS
from nbclient import NotebookClient
from serving import ROOT
from stand_in_hub import Account, Hub
from stories import write_stories

NOTEBOOK = ROOT / "notebooks" / "train_and_deploy.ipynb"
TOKEN = "hf_" + "Lkjhgfdsaq" * 3 + "Wert"  # belongs to nobody


def a_repository(folder: Path) -> Path:
    """A repository that can be cloned, with all files here that git does not ignore, committed or not."""

    def git(*arguments: str, cwd: Path = folder) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=cwd, capture_output=True, text=True, check=True
        ).stdout

    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "All")
    return folder


def test_it_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


def test_it_installs_what_it_names() -> None:
    """A fresh machine may have none of the listed packages, so each of them must be one pinned line."""
    [cell] = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "needed.txt" in cell.source]
    pattern = re.search(r'^needed = r"(.*?)"', cell, re.MULTILINE)[1]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    named = re.search(r"\((.*?)\)", pattern)[1].split("|")
    found = [re.match(r"\w+", line)[0] for line in lines if re.search(pattern, line)]
    assert "gradio" in named and sorted(found) == sorted(named)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::ResourceWarning")
def test_it_trains_tells_and_deploys(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.accounts[TOKEN] = Account("ann")
    hub.spaces.launches = True
    (tmp_path / "work").mkdir()
    (tmp_path / "repository").mkdir()
    settings = {
        "REPOSITORY": a_repository(tmp_path / "repository").as_uri(),
        "PRESET": "debug",
        "DATA": str(write_stories(tmp_path / "stories.txt", 120)),
        "SPACE": "ann/stories",
        "HF_TOKEN": TOKEN,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path / "work"}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "100%" in printed and "loss" in printed, "a progress bar"
    assert any("image/png" in output.get("data", {}) for output in outputs), "curves"
    assert "Once upon a time" in printed and "nats per character" in printed
    assert "the Space tells: Once upon a time" in printed and f"{ADDRESS}/spaces/ann/stories" in printed
    assert "artifacts/mine/model.onnx" in hub.space("ann/stories").files()
    assert TOKEN not in nbformat.writes(notebook)
    assert len(os.listdir(tmp_path / "work")) == 1, "it wrote only into its clone"
