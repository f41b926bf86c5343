"""The same run gives the same files and tells the same story, also in a different environment.

The short form compares the plain place with an unusual one. `make torture` tries more places, and starts the page in
each.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import model
from tests.stories import write_stories
from tests.torture.elsewhere import Place, make_places
from tests.torture.record import FULL, record

SHORT = ["--steps", "20", "--eval-every", "8", "--context", "32", "--batch-size", "4"]
TEXT, OUT = "a text.txt", "artifacts/my model"
FOREIGN_TEXT, FOREIGN_OUT = "Ein schöner Text.txt", "artifacts/Mär chen"
PROMPT = "Once upon a time"
SAMPLING = replace(model.USUAL, length=80, seed=7)
UNLIKE = {"seconds", "chars_per_second", "commit"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """The places by a description of what is unusual there; the first one is plain."""
    return make_places(tmp_path_factory.mktemp("places"), few=not FULL, left_out=("artifacts/", "docs/"))


@pytest.fixture(scope="module")
def trained(places: dict[str, Place]) -> dict[str, Path]:
    """The artifact that each place made from the same text with the same command."""
    made = {}
    for name, place in places.items():
        write_stories(place.folder / TEXT, 80)
        settings = ["--preset", "debug", "--data", TEXT, "--out", OUT, "--device", "cpu", "--threads", "1"]
        done = place.run("-m", "train", *settings, *([] if FULL else SHORT))
        assert done.returncode == 0, (name, done.stderr)
        assert f"\n{OUT}: " in done.stdout, done.stdout
        made[name] = place.folder / OUT
    return made


def untimed(value: Any) -> Any:
    """JSON without the values that depend on the clock or on a git repository."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in UNLIKE}
    return value


def lines(path: Path) -> list[Any]:
    return [untimed(json.loads(line)) for line in path.read_text().splitlines()]


def test_the_same_run_gives_the_same_files(trained: dict[str, Path]) -> None:
    plain, *others = trained.values()
    metrics = json.loads((plain / "metrics.json").read_text())
    assert metrics["environment"].keys() == {"platform", "cpu", "cores"}
    assert {"python", "torch", "numpy", "safetensors", "onnx", "onnxruntime"} == metrics["versions"].keys()
    assert metrics["threads"] == 1
    for other in others:
        for name in ("model.safetensors", "stoi.json", "itos.json", "model.onnx"):
            assert (plain / name).read_bytes() == (other / name).read_bytes(), (other, name)
        assert untimed(json.loads((other / "metrics.json").read_text())) == untimed(metrics)
        assert lines(other / "log.jsonl") == lines(plain / "log.jsonl")
        assert (other / "README.md").read_text() == (plain / "README.md").read_text()
    record(
        "the same seed, data, preset and thread count in different environments",
        len(trained),
        "weights, vocabulary, ONNX graph and card are byte for byte the same, metrics and log are too except for "
        "times; hash seeds, users, folders, locales and time zones differed",
        'make torture ARGS="-k same_files"',
        section="Reproducible",
    )


def test_names_are_kept_if_the_locale_cannot_encode_them(places: dict[str, Place], trained: dict[str, Path]) -> None:
    able = {name: place for name, place in places.items() if "LOCPATH" not in place.variables}
    for place in list(able.values())[0 if FULL else 1 :]:
        write_stories(place.folder / FOREIGN_TEXT, 80)
        done = place.run("-m", "train", "--preset", "debug", "--data", FOREIGN_TEXT, "--out", FOREIGN_OUT, *SHORT)
        assert done.returncode == 0, done.stderr
        assert " nats per character on " in done.stdout
        metrics = model.load(place.folder / FOREIGN_OUT).metrics
        assert (metrics["name"], metrics["data"]["name"]) == ("Mär chen", FOREIGN_TEXT)


@contextmanager
def page(place: Place) -> Iterator[str]:
    """Starts the page in a place and yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = place.environment() | {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    command, log = [*place.prefix(), sys.executable, "app.py"], place.folder / "tmp" / "log"
    with log.open("w") as output, subprocess.Popen(
        command, cwd=place.folder, env=variables, stdout=output, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        try:
            url, limit = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while not answers(url):
                assert process.poll() is None and time.monotonic() < limit, log.read_text()
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
    assert "Traceback" not in log.read_text(errors="replace")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def told_by_page(url: str) -> str:
    """The whole story, from the endpoint /tell."""
    body = json.dumps({"data": ["my model", PROMPT, *(getattr(SAMPLING, name) for name in model.SETTINGS)]}).encode()
    request = urllib.request.Request(f"{url}/gradio_api/call/tell", body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    with urllib.request.urlopen(f"{url}/gradio_api/call/tell/{event}", timeout=60) as answer:
        said = answer.read().decode()
    [last] = re.findall(r"event: complete\ndata: (.+)", said)
    return json.loads(last)[0]


def test_the_same_story_is_told_everywhere(places: dict[str, Place], trained: dict[str, Path]) -> None:
    """The command, whose output has the encoding of the locale, and the page tell the same story."""
    storyteller = model.load(next(iter(trained.values())))
    story = "".join(storyteller.tell(PROMPT, SAMPLING))
    for name, place in list(places.items())[0 if FULL else 1 :]:
        told = place.run("-m", "model", PROMPT, "--model", OUT, "--length", "80", "--seed", "7")
        assert (told.returncode, told.stdout) == (0, f"{PROMPT}{story}\n"), (name, told.stderr)
        if FULL:
            with page(place) as url:
                assert story.strip() in told_by_page(url), name
    record(
        "a story told by the command and by the page in these environments",
        len(places),
        "the same story each time",
        'make torture ARGS="-k same_story"',
        section="Reproducible",
    )
