"""Builds and runs the Spaces of the stand-in Hub: only their files, in an empty folder, in a process of their own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from hub_git import Repo

# ZeroGPU requires one function marked for the GPU, and `spaces` imported before torch. The errors are those of ZeroGPU.
ZERO_GPU = """
import sys

assert "torch" not in sys.modules, "CUDA has been initialized before importing the `spaces` package"
import gradio

marked, launch = [], gradio.Blocks.launch


def GPU(task):
    marked.append(task)
    return task


def launch_after_check(*args, **kwargs):
    if len(marked) != 1:
        sys.exit("No @spaces.GPU function detected during startup")
    print("ZeroGPU: ready", flush=True)
    return launch(*args, **kwargs)


gradio.Blocks.launch = launch_after_check
"""


class Runner:
    """Holds for each Space the stage, the commit that runs or failed, the logs and the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launches = False  # if False, a build ends at once and starts nothing
        self.fails: str | None = None  # the log of a build that fails
        self.state: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.python, self.count, self.lock = sys.executable, 0, threading.Lock()
        self.zero_gpu: str | None = None  # the address for the real `spaces` package; if None, ZERO_GPU replaces it

    def add(self, repo: Repo) -> None:
        """Adds a Space that was just created."""
        self.state[repo.name] = {"stage": "NO_APP_FILE", "sha": None, "host": None, "build": [], "run": None}

    def runtime(self, repo: Repo) -> dict[str, Any]:
        state, hardware = self.state[repo.name], repo.settings["hardware"]
        info = {"stage": state["stage"], "hardware": {"current": hardware, "requested": hardware}, "gcTimeout": 172800}
        return info | {key: state[key] for key in ("sha", "errorMessage") if state.get(key)}

    def host(self, repo: Repo) -> str | None:
        return self.state[repo.name]["host"]

    def log(self, repo: Repo, kind: str) -> bytes:
        """Returns all lines of a log as server-sent events. For the log of a build, waits until the build has ended."""
        state = self.state[repo.name]
        while kind == "build" and state["stage"] == "BUILDING":
            time.sleep(0.02)
        lines = state["build"]
        if kind == "run":
            lines = state["run"].read_text().splitlines(keepends=True) if state["run"] else []
        events = [{"data": line, "timestamp": "2026-01-01T00:00:00Z"} for line in lines]
        return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)

    def build(self, repo: Repo) -> None:
        """Starts to build the current state of the Space. The stage is BUILDING when this returns."""
        state = self.state[repo.name]
        commit = repo.at()
        if self.fails:
            state |= {"stage": "BUILD_ERROR", "sha": commit.oid, "build": self.fails.splitlines(keepends=True)}
        elif not self.launches:
            state |= {"stage": "RUNNING", "sha": commit.oid, "build": ["nothing to do\n"]}
        else:
            state |= {"stage": "BUILDING", "build": []}
            threading.Thread(target=self._launch, args=(repo, commit.oid, repo.files()), daemon=True).start()

    def _launch(self, repo: Repo, commit: str, files: dict[str, bytes]) -> None:
        state = self.state[repo.name]
        with self.lock:
            self.count += 1
            home = self.folder / f"space-{self.count}"
        for path, data in files.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(data)
        front = yaml.safe_load(re.match(r"---\n(.*?)---\n", files["README.md"].decode(), re.DOTALL)[1])
        app = front.get("app_file", "app.py")
        if app not in files:
            state |= {"stage": "NO_APP_FILE", "sha": commit}
            return
        state["build"] += [f"--> COPY {len(files)} files\n", f"--> gradio[oauth]=={front['sdk_version']} spaces\n"]
        environment = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"} | {"PYTHONPATH": ""}
        if self.zero_gpu:
            environment |= {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": self.zero_gpu}
        elif repo.settings["hardware"] == "zero-a10g":
            (home / ".image").mkdir()
            (home / ".image" / "spaces.py").write_text(ZERO_GPU)
            environment["PYTHONPATH"] = str(home / ".image")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
        log = self.folder / f"{home.name}.log"
        state |= {"stage": "APP_STARTING", "run": log}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.python, app], cwd=home, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        before = self.processes.pop(repo.name, None)
        self.processes[repo.name] = process
        url = f"http://127.0.0.1:{port}"
        while not _answers(url) and process.poll() is None:
            time.sleep(0.05)
        _end(before)
        state |= {"host": url, "sha": commit, "stage": "RUNNING" if process.poll() is None else "RUNTIME_ERROR"}

    def stop(self) -> None:
        for process in self.processes.values():
            _end(process)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:  # it has not started yet, or is slow
        return False
