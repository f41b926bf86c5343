"""Malicious folders: each is refused by name, in little memory and time, and no file outside the folder is read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from serving import ROOT

from model.artifacts import FILES, GRAPH
from tests.torture.record import record

COMMAND = ".venv/bin/python -m pytest tests/test_untrusted.py"
MEGABYTES, SECONDS = 256, 5  # limits of a refusal; the memory is beyond what the program has already
SECRET = b"this is outside"
# Opens each folder in turn, as the page does, and prints the result and the time that it took.
OPEN = """
import json, resource, sys, time
import onnxruntime
import model
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEGABYTES * 2**20,) * 2)
for folder in sys.argv[1:]:
    began = time.monotonic()
    try:
        storyteller = model.load(folder)
        told = "opened" if storyteller.open_graph() else storyteller.warning
    except model.ArtifactError as error:
        told = str(error)
    print(json.dumps([told, time.monotonic() - began]), flush=True)
""".replace("MEGABYTES", str(MEGABYTES))


def put(folder: Path, name: str, data: bytes) -> None:
    """Puts a file into an artifact as if it had been saved with it."""
    (folder / name).write_bytes(data)
    change(folder, lambda head: head["files"].update({name: hashlib.sha256(data).hexdigest()}))


def change(folder: Path, how: Callable[[dict], object]) -> None:
    head = json.loads((folder / "config.json").read_bytes())
    how(head)
    (folder / "config.json").write_text(json.dumps(head))


def sparse(folder: Path, name: str, gigabytes: int) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(gigabytes * 2**30)


def link(folder: Path, name: str, target: str | Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def header(size: int, **tensor: object) -> bytes:
    text = json.dumps({"embedding.weight": tensor}).encode()
    return (size or len(text)).to_bytes(8, "little") + text


def outside(folder: Path, location: str) -> None:
    """Makes the graph say that its first weights are in another file."""
    graph = onnx.load_from_string((folder / GRAPH).read_bytes())
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    put(folder, GRAPH, graph.SerializeToString())


GIANT = {"dtype": "F32", "shape": [2**30, 2**10], "data_offsets": [0, 2**42]}
NO_SAFETENSORS, NO_JSON, NO_GRAPH = "is not a valid safetensors file", "is not valid JSON", "cannot be opened by ONNX"
# What is done to a folder, and a part of the refusal that follows.
HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"{name} is a link": (lambda it, name=name: link(it, name, it.parent / "secret"), f"{name} is not a plain file")
       for name in (*FILES, GRAPH)},
    "weights are a device": (lambda it: link(it, "model.safetensors", "/dev/zero"), "safetensors is not a plain file"),
    "a parent in a name": (lambda it: change(it, lambda head: head["files"].update({"../secret": "0" * 64})), "lists"),
    "an absolute name": (lambda it: change(it, lambda head: head["files"].update({"/etc/passwd": "0" * 64})), "lists"),
    "weights of 10 GB": (lambda it: sparse(it, "model.safetensors", 10), "model.safetensors has 10,737,418,240 bytes"),
    "a graph of 10 GB": (lambda it: sparse(it, GRAPH, 10), "model.onnx has 10,737,418,240 bytes"),
    "JSON of 5 GB": (lambda it: sparse(it, "metrics.json", 5), "metrics.json has 5,368,709,120 bytes"),
    "a config of 5 GB": (lambda it: sparse(it, "config.json", 5), "config.json has 5,368,709,120 bytes"),
    "JSON 10,000 deep": (lambda it: put(it, "metrics.json", b'{"a":' * 10_000 + b"1" + b"}" * 10_000), NO_JSON),
    "a log 10,000 deep": (lambda it: put(it, "log.jsonl", b'{"a":' * 10_000 + b"1" + b"}" * 10_000), NO_JSON),
    "a number of a million digits": (lambda it: put(it, "stoi.json", b'{"a": 1' + b"0" * 10**6 + b"}"), "stoi.json"),
    "a header of 4 EB": (lambda it: put(it, "model.safetensors", header(2**62)), NO_SAFETENSORS),
    "a tensor of 4 TB": (lambda it: put(it, "model.safetensors", header(0, **GIANT)), NO_SAFETENSORS),
    "a shape that overflows": (lambda it: put(it, "model.safetensors", header(
        0, dtype="F32", shape=[2**62, 8], data_offsets=[0, 0])), NO_SAFETENSORS),
    "a network that fits no memory": (lambda it: change(it, lambda head: head.update(
        context=4, layers=256, width=16384, heads=256)), "does not match config.json"),
    "stories that fit no memory": (lambda it: change(it, lambda head: head.update(
        context=65536, layers=256, loops=64)), "MiB of memory for each story"),
    "a wide network": (lambda it: change(it, lambda head: head.update(width=16384)), "config.json requires"),
    "a million layers": (lambda it: change(it, lambda head: head.update(layers=10**6)), "from 1 to 256"),
    "a pickle": (lambda it: put(it, "model.safetensors", pickle.dumps(os.system)), "is a pickle, which can run code"),
    "a graph with data at an absolute name": (lambda it: outside(it, str(it.parent / "secret")), NO_GRAPH),
    "a graph with data in a parent": (lambda it: outside(it, "../secret"), NO_GRAPH),
    "a graph with data of the system": (lambda it: outside(it, "/etc/passwd"), NO_GRAPH),
    "a graph with data of the program": (lambda it: outside(it, "README.md"), NO_GRAPH),
    "a graph with data of the artifact": (lambda it: outside(it, "config.json"), NO_GRAPH),
    "a log of two million lines": (lambda it: put(it, "log.jsonl", b"{}\n" * 2**21), "log.jsonl has 6,291,456 bytes"),
    "a log of empty lines": (lambda it: put(it, "log.jsonl", b"{}\n" * 2**19), "has a line that is not an evaluation"),
    "a log of short lines": (lambda it: put(it, "log.jsonl", b'{"a":9}\n' * 2**19), "belongs to another run"),
    "a log of many lists": (lambda it: put(it, "log.jsonl", b'{"a": [' + b"[]," * 2**19 + b"[]]}"), "an evaluation"),
    "a graph of noise": (lambda it: put(it, GRAPH, bytes(range(256)) * 4096), NO_GRAPH),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """The result of each kind of harm, and the seconds that it took."""
    home = tmp_path_factory.mktemp("untrusted")
    (home / "secret").write_bytes(SECRET)
    folders = []
    for number, (harm, _) in enumerate([(lambda _: None, ""), *HARM.values()]):
        folders.append(shutil.copytree(tiny_onnx, home / str(number)))
        harm(folders[-1])
    command = [sys.executable, "-c", OPEN, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert SECRET.decode() not in done.stdout + done.stderr
    return dict(zip(("no harm", *HARM), map(json.loads, done.stdout.splitlines()), strict=True))


def test_a_harmless_folder_is_opened(told: dict[str, tuple[str, float]]) -> None:
    assert told["no harm"][0] == "opened"


def test_malicious_folders_are_refused_by_name(told: dict[str, tuple[str, float]]) -> None:
    for harm, (_, words) in HARM.items():
        assert words in told[harm][0], (harm, told[harm])
        assert "\n" not in told[harm][0]
    slowest = max(seconds for _, seconds in told.values())
    assert slowest < SECONDS
    outcome = (
        f"each refused with a line that names the file, within {MEGABYTES} MB and {SECONDS} s; no link was followed"
    )
    record("malicious artifacts", len(HARM), outcome, COMMAND, section="The page")
