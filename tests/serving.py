"""Helpers for the tests of the page: tiny artifacts with random weights, a process of app.py, and Chromium."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np

from model import ModelConfig, Vocab
from model.artifacts import add_graph, read, save
from train.export.onnx_graph import build

ROOT = Path(__file__).parent.parent
CHROMIUM_MISSING = "no Chromium found; on Debian install it with: apt-get install chromium"
CHROMIUM_FLAGS = [  # it runs as root in CI, and must call nothing but the page
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # pages for the address bar's menu, which take half of a page's time, although nothing shows them here
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup",
]


@dataclass(frozen=True)
class Server:
    """A running page: its address, its log, the seconds from its start to its first answer, its process id."""

    url: str
    log: Path
    seconds: float
    pid: int

    def post(self, path: str, body: str) -> dict[str, Any]:
        """The answer to a POST under /gradio_api."""
        request = urllib.request.Request(f"{self.url}/gradio_api{path}", body.encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def call(self, endpoint: str, body: str) -> HTTPResponse:
        """The stream of events that answers a call over plain HTTP. Closing it means that the client leaves."""
        event = self.post(f"/call/{endpoint}", body)["event_id"]
        return urllib.request.urlopen(f"{self.url}/gradio_api/call/{endpoint}/{event}", timeout=20)

    def ask_tab(self, name: str, *values: object) -> list[dict[str, Any]]:
        """The messages that answer a call of one of the page's own functions, as the page itself calls it."""
        with urllib.request.urlopen(f"{self.url}/config", timeout=20) as answer:
            functions = json.load(answer)["dependencies"]
        number, session = next(it["id"] for it in functions if it["api_name"] == name), secrets.token_hex()
        self.post("/queue/join", json.dumps(dict(data=values, fn_index=number, session_hash=session)))
        with urllib.request.urlopen(f"{self.url}/gradio_api/queue/data?session_hash={session}", timeout=20) as answer:
            lines = [json.loads(line.removeprefix(b"data: ")) for line in answer if line.startswith(b"data: ")]
        return [line for line in lines if line["msg"] == "process_completed"]

    def complaints(self) -> list[str]:
        """The lines of the log that no visitor should be able to cause."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "Traceback" in line or "Error" in line or "Warning" in line]


def save_tiny(
    folder: Path,
    *,
    nats: float,
    ends: bool,
    prompts: object = None,
    graph: bool = False,
    heads: int = 2,
    vocab: Vocab | None = None,
    **metrics: object,
) -> None:
    """Saves an artifact with random weights, and with more `metrics`.

    With `ends`, it ends its stories itself after about a hundred characters. Otherwise it is slower, has no end mark,
    fills every length, and its vocabulary has no digits. With a `graph` it is wider, and just as slow.
    """
    letters = Vocab.from_text(" !',.ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    vocab = vocab or (Vocab.ascii() if ends else letters)
    shape = dict(vocab_size=len(vocab), context=64, layers=2 if ends else 8, heads=heads, width=192 if graph else 32)
    config = ModelConfig(architecture="gpt" if ends else "classic", **shape)
    generator = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32) if "norm" in name else generator.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in config.shapes().items()
    }
    parameters = sum(array.size for array in weights.values())
    metrics |= dict(name=folder.name, nats_per_character=nats, parameters=parameters, steps=2, command="train <b>1</b>")
    metrics |= {} if prompts is None else {"prompts": prompts}
    log = [dict(step=step, train=4 / (step + 1), val=4.4 / (step + 1), lr=0.001) for step in range(3)]
    save(folder, config=config, vocab=vocab, weights=weights, metrics=metrics, log=log, card="# tiny\n")
    if graph:
        add_graph(folder, build(config, weights, bits=32), read(folder).hashes["model.safetensors"])


def save_broken(folder: Path) -> None:
    """Saves an artifact whose weights file is truncated."""
    save_tiny(folder, nats=0.1, ends=True)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


@contextmanager
def serve(home: Path, artifacts: Path, *, torch: bool = True, host: str = "127.0.0.1") -> Iterator[Server]:
    """Serves `artifacts` from a copy, in `home`, of what a Space needs: app.py, page/ and model/, without train/."""
    shutil.copy(ROOT / "app.py", home)
    for package in ("page", "model"):
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        port = free.getsockname()[1]
    log = home / "log"
    environment = os.environ | {"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(port)}
    if not torch:
        (home / "without").mkdir()
        (home / "without" / "sitecustomize.py").write_text('import sys\nsys.modules["torch"] = None\n')
        environment["PYTHONPATH"] = str(home / "without")
    with log.open("w") as output:
        command = [sys.executable, "app.py", "--artifacts", str(artifacts)]
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        while not _answers(url):
            if process.poll() is not None or time.monotonic() - started > 60:
                raise RuntimeError(f"app.py did not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield Server(url, log, time.monotonic() - started, process.pid)
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def serve_tiny(home: Path, *, name: str = "tiny", ends: bool = False, complaints: bool = False) -> Iterator[Server]:
    """Serves one tiny artifact, and checks at the end that the log has no line that a visitor should not cause.

    With `complaints` it may have some, because requests are sent that make no sense.
    """
    save_tiny(home / "artifacts" / name, nats=1.0, ends=ends)
    with serve(home, home / "artifacts") as server:
        yield server
        assert complaints or server.complaints() == []


def find_chromium() -> str | None:
    """The path of an installed Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:  # not yet, or too busy to answer in time
        return False
