"""Every command of the README, in its order and as printed, by somebody who has nothing but the README."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from hub_address import ADDRESS
from serving import ROOT
from stand_in_hub import Account, Hub
from stories import write_stories
from test_notebook import a_repository

README = (ROOT / "README.md").read_text(encoding="utf-8")
URL = "https://github.com/YOU/gpt-from-scratch"
TOKEN = "hf_" + "Poiuytrewq" * 3 + "Zxcv"  # belongs to nobody
# What would download gigabytes, or asks a person: `make test` did the first two before this test ran.
NOT_HERE = ("python3 -m venv ", ".venv/bin/python -m pip install ", ".venv/bin/hf auth login")
# What would take twenty minutes here takes seconds: the last of two equal flags counts.
SHORTER = {
    "--max-minutes 20": "--max-minutes 20 --max-minutes 0.05 --final-stories 5",
    "--preset tune": "--preset tune --steps 2 --eval-stories 5 --final-stories 5",
}


class Newcomer:
    """Somebody with a shell, in an empty folder, whose packages are installed already."""

    def __init__(self, home: Path, repository: Path) -> None:
        self.folder = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")
        }
        self.environment |= {"GRADIO_SERVER_PORT": str(self.port), "HF_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
        self.environment |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": URL}
        self.environment |= {"GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf"}

    def run(self, command: str) -> str:
        """What a command prints on standard output; the next one runs in the folder that it ends in."""
        for printed, shorter in SHORTER.items():
            command = command.replace(printed, shorter)
        script = f"{command}\necho; pwd"
        shell = ["bash", "-e", "-c", script]
        done = subprocess.run(shell, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        *printed, last = done.stdout.splitlines()
        self.folder = Path(last)
        return "\n".join(printed)

    def open_page(self, command: str, client: str | None) -> None:
        """Starts the page, waits for its first answer, and has the README's client call it."""
        log = self.folder / "page.log"
        with log.open("w") as output:
            options = {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
            page = subprocess.Popen(shlex.split(command), cwd=self.folder, env=self.environment, **options)
        try:
            deadline = time.monotonic() + 60
            while not self.answers():
                assert page.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            if client:
                assert "gradio_client" in client
                self.python(client.replace("127.0.0.1:7860", f"127.0.0.1:{self.port}"))
        finally:
            os.killpg(page.pid, signal.SIGTERM)
            page.wait(20)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}", timeout=10) as answer:
                return answer.status == 200
        except urllib.error.URLError:
            return False

    def python(self, code: str) -> str:
        command = [".venv/bin/python", "-c", code]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> None:
        """An environment with the packages of this one, which make takes for up to date."""
        venv = self.folder / ".venv"
        venv.mkdir()
        for part in ("bin", "lib", "pyvenv.cfg"):
            (venv / part).symlink_to(Path(sys.prefix) / part)
        for name in ("app", "train"):
            (venv / f"{name}.stamp").touch()


def test_every_command_runs_as_printed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "an empty folder").mkdir()
    newcomer = Newcomer(tmp_path / "an empty folder", a_repository(tmp_path / "repository"))
    hub.accounts[TOKEN], hub.spaces.launches = Account("YOU"), True
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    example, client = (text for kind, text in blocks if kind == "python")
    commands = [re.split(r"\s+# ", line)[0] for kind, text in blocks if not kind for line in text.splitlines()]
    printed: dict[str, str] = {}
    for command in commands:
        if command.startswith(NOT_HERE):
            files = re.findall(r"[\w-]+\.txt", command)
            assert all((newcomer.folder / name).exists() for name in files)
        elif command.startswith(("make app", ".venv/bin/python app.py")):
            newcomer.open_page(command, client)
            client = None
        else:
            printed[command] = newcomer.run(command)
        if command.startswith("git clone"):
            newcomer.install()
            write_stories(newcomer.folder / "my.txt", 300)

    shown = "\n".join(re.findall(r"^> (.*)$", README, re.MULTILINE)).replace("\n", " ").replace("<br> ", "\n")
    # to the end it may differ on another processor, by the rounding of one draft's likelihood
    assert printed['.venv/bin/python -m model "Once upon a time" --seed 7'][:100] == shown[:100]
    listed = printed[".venv/bin/python -m model --list"]
    assert listed.startswith("artifacts/storyteller: ") and " nats per character on valid.txt\n" in listed
    assert sum("A story that it tells:" in text for text in printed.values()) == 3  # each training
    dry = next(text for command, text in printed.items() if command.endswith("--dry-run"))
    assert "nothing was changed: --dry-run" in dry and f"{ADDRESS}/spaces/YOU/YOUR-SPACE: is new" in dry
    pushed = next(text for command, text in printed.items() if command.endswith("--artifact my"))
    assert "the Space tells: Once upon a time" in pushed
    assert [commit.title for commit in hub.space("YOU/YOUR-SPACE").history()][1] == "Push the page and its models"
    assert newcomer.python(example).startswith("Once upon a time")
