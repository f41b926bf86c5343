"""The page as a Space would run it: started from its files alone in an empty folder, and asked for a story."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from train.push.contents import Contents, PushError

START_SECONDS, ANSWER_SECONDS = 120, 60  # until the page is there, and until it answers a request
TELL_SECONDS = 300  # a Space on a shared processor, its model not read yet
PROMPT, SEED = "Once upon a time", 7
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")  # the page has no use for them


def rehearse(contents: Contents, length: int = 100) -> dict[str, str]:
    """Starts the page from the files of a Space in an empty folder; the story that each artifact tells, by name.

    Raises PushError with the page's last lines if it does not start or tell.
    """
    with tempfile.TemporaryDirectory(prefix="space-") as folder, serve(contents.files, Path(folder)) as (url, log):
        stories = {}
        for name in contents.artifacts:
            try:
                stories[name] = tell(url, model=name, length=length)
            except Exception as error:  # whatever the page or its client raise, it cannot be pushed
                raise PushError(f"{name} told no story on the page: {error}\n{last_lines(log)}") from error
        return stories


@contextmanager
def serve(files: Mapping[str, bytes], folder: Path) -> Iterator[tuple[str, Path]]:
    """Writes the files into `folder` and runs app.py there until the block ends: its address and its log."""
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name not in TOKENS}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": url.rsplit(":", 1)[1]}
    environment |= {"PYTHONPATH": "", "HF_TOKEN_PATH": os.devnull}
    log = folder / "page.log"
    with log.open("wb") as output:
        command = [sys.executable, "app.py"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PushError(f"the page does not start:\n{last_lines(log)}")
            time.sleep(0.05)
        yield url, log
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tell(url: str, *, model: str | None = None, length: int = 200, token: str | None = None) -> str:
    """The story that the page at `url` tells; None stands for the page's own choice of a model.

    A token is sent only where one is given, to see a private Space. Raises PushError if no character came.
    """
    from gradio_client import Client

    # Of None the client would make the saved token, and send it to whoever serves this address.
    credential: Any = token if token else False
    patience = {"timeout": ANSWER_SECONDS}
    settings = {"prompt": PROMPT, "length": length, "seed": SEED}
    if model is not None:
        settings["model"] = model
    client = Client(
        url, credential, verbose=False, download_files=False, analytics_enabled=False, httpx_kwargs=patience
    )
    with closing(client) as page:
        story, *_ = page.submit(**settings, api_name="/tell").result(TELL_SECONDS)
    if len(story) <= len(PROMPT):
        raise PushError(f"the page told nothing after {PROMPT!r}")
    return story


def last_lines(log: Path, count: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
            return answer.status == 200
    except OSError:  # it is not there yet, or is slow to come up
        return False
