"""Builds a Space as the Hub does: requirements in a fresh environment, the page under ZeroGPU; make test-space."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_hub import ADDRESS, Account, Hub

from train.push import __main__ as push
from train.push.contents import front_matter, gather
from train.push.rehearsal import tell

TOKEN = "hf_" + "Mnbvcxzlkj" * 3 + "Hgfd"  # belongs to nobody
NAME = "ann/stories"
# The packages that the Hub installs with the requirements of a Gradio Space, in the same command.
IMAGE = ["gradio[oauth,mcp]=={version}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]


def works(python: str) -> bool:
    """Whether this Python runs: pyenv puts names on the path that may not."""
    return subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0


def pythons() -> list[str]:
    """The running Python, and Python 3.12, which the Space has, if it is installed."""
    known = [shutil.which("python3.12"), *Path.home().glob(".pyenv/versions/3.12.*/bin/python3.12")]
    others = [str(python) for python in known if python and works(str(python))]
    return [sys.executable, *(others[:1] if sys.version_info[:2] != (3, 12) else [])]


@pytest.mark.parametrize("python", pythons(), ids=lambda python: Path(python).name)
def test_a_fresh_environment_tells_the_story(
    python: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = gather(["pocket"])
    requirements = tmp_path / "requirements.txt"
    requirements.write_bytes(contents.files["requirements.txt"])
    version = front_matter(contents.files["README.md"].decode())["sdk_version"]
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    inside = str(tmp_path / "venv" / "bin" / "python")
    image = [package.format(version=version) for package in IMAGE]
    subprocess.run([inside, "-m", "pip", "install", "-q", "-r", requirements, *image], check=True)
    installed = subprocess.run([inside, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "\nspaces " in installed and not re.search(r"^torch ", installed, re.MULTILINE)

    hub.accounts[TOKEN] = Account("ann")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.spaces.launches, hub.spaces.python, hub.spaces.zero_gpu = True, inside, f"{ADDRESS}/zero-gpu"
    code = push.main([NAME, "--artifact", "pocket"])
    out, err = capsys.readouterr()
    assert code == 0, out + err
    assert "POST /zero-gpu/startup-report" in hub.requests
    story = tell(hub.spaces.host(hub.space(NAME)), length=60)
    assert len(story) > 60
