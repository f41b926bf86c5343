"""Runs the page as a Space would: starts it in an empty folder that holds only its files, and asks for a story."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from train.push.contents import Contents, PushError

START_SECONDS, ANSWER_SECONDS = 120, 60  # for the page to start, and for the answer to a request
TELL_SECONDS = 300  # a Space with a shared processor, whose model is not loaded yet
PROMPT, SEED = "Once upon a time", 7  # a model of another script tells from the start
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")  # removed: the page does not need them


def rehearse(contents: Contents, length: int = 100) -> dict[str, str]:
    """Starts the page from the files of a Space in an empty folder. Returns the story of each artifact, by name.

    Raises PushError with the last lines of the page's output if it does not start, or tells no story.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in TOKENS and not name.upper().startswith("GRADIO_")  # where this machine's own page is served
    }
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port}
    environment |= {"PYTHONPATH": "", "HF_TOKEN_PATH": os.devnull}
    with tempfile.TemporaryDirectory(prefix="space-") as folder:
        for path, data in contents.files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        log, command = Path(folder, "page.log"), [sys.executable, "app.py"]
        with log.open("wb") as output:
            page = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, page)
            return {name: tell(url, model=name, length=length, proxies=False) for name in contents.artifacts}
        except PushError as error:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise PushError("\n".join([str(error), *lines[-20:]])) from error
        finally:
            page.kill()
            page.wait()


def tell(
    url: str, *, model: str | None = None, length: int = 200, token: str | None = None, proxies: bool = True
) -> str:
    """Returns the story that the page at `url` tells. With `model` None the page chooses the model.

    Without `proxies` it is asked directly: no proxy reaches a page on this machine. A token is sent only if one is
    given, for a private Space. Raises PushError if the story is empty.
    """
    from gradio_client import Client

    settings = {"prompt": PROMPT, "length": length, "seed": SEED} | ({} if model is None else {"model": model})
    options: dict[str, Any] = {"verbose": False, "download_files": False, "analytics_enabled": False}
    options |= {"httpx_kwargs": {"timeout": ANSWER_SECONDS, "trust_env": proxies}}
    try:
        # Given None, the client would send the saved token to whoever serves this address.
        with closing(Client(url, token or False, **options)) as page:
            story, *_ = page.submit(**settings, api_name="/tell").result(TELL_SECONDS)
    except Exception as error:  # the client raises errors of the page and of several libraries
        raise PushError(f"{model or 'the page'} told no story: {error}") from error
    if story in ("", PROMPT):
        raise PushError(f"{model or 'the page'} told nothing after {PROMPT!r}")
    return story


def _wait_for(url: str, page: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while page.poll() is None and time.monotonic() < deadline:
        try:
            direct.open(url, timeout=ANSWER_SECONDS).close()
            return
        except OSError:  # it has not started yet, or is slow
            time.sleep(0.05)
    raise PushError("the page does not start:")
