"""Artifacts: they are saved completely or not at all, and reading names every kind of damage."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIC, GPT, parts
from safetensors.numpy import save as to_safetensors

from model import artifacts, atomic
from model.artifacts import FIX, ArtifactError, read, save

NAMES = sorted(artifacts.FILES)
HASHED = [name for name in NAMES if name != "config.json"]


@pytest.fixture
def folder(tiny_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the tiny artifact. Tests damage it."""
    return shutil.copytree(tiny_artifact, tmp_path / "tiny")


def put(folder: Path, name: str, data: bytes) -> None:
    """Writes a file of an artifact, and updates its hash in config.json."""
    (folder / name).write_bytes(data)
    head = json.loads((folder / "config.json").read_bytes())
    head["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "config.json").write_text(json.dumps(head))


def edit(folder: Path, name: str, change: Callable[[dict], object]) -> None:
    """Changes the value in a JSON file, and updates its hash in config.json."""
    value = json.loads((folder / name).read_bytes())
    change(value)
    if name == "config.json":
        (folder / name).write_text(json.dumps(value))
    else:
        put(folder, name, json.dumps(value).encode())


def refusal(folder: Path) -> str:
    """Returns the error message for `folder`, with `.` in place of the folder's path."""
    with pytest.raises(ArtifactError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), ".")


@pytest.mark.parametrize("config", [GPT, CLASSIC], ids=["gpt", "classic"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_saved_is_read(tmp_path: Path, config, dtype) -> None:
    given = parts(config)
    given["weights"] = {name: array.astype(dtype) for name, array in given["weights"].items()}
    # a transposed array is not contiguous in memory
    name = "blocks.1.mlp.down.weight"
    given["weights"][name] = np.ascontiguousarray(given["weights"][name].T).T
    save(tmp_path / "deep" / "tiny", **given)
    artifact = read(tmp_path / "deep" / "tiny")
    for part in ("config", "vocab", "metrics", "log", "card"):
        assert getattr(artifact, part) == given[part]
    assert artifact.weights.keys() == given["weights"].keys()
    for name, array in given["weights"].items():
        assert artifact.weights[name].dtype == dtype
        np.testing.assert_array_equal(artifact.weights[name], array)
    assert sorted(path.name for path in (tmp_path / "deep" / "tiny").iterdir()) == NAMES
    assert os.listdir(tmp_path / "deep") == ["tiny"]


def test_stoi_and_itos_are_plain_json(tiny_artifact: Path) -> None:
    stoi, itos = (json.loads((tiny_artifact / name).read_text()) for name in ("stoi.json", "itos.json"))
    assert stoi["\n"] == 0
    assert itos["96"] == "<|endoftext|>"
    assert {int(id): symbol for id, symbol in itos.items()} == {id: symbol for symbol, id in stoi.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"./{name} is missing; {FIX}"


@pytest.mark.parametrize("name", HASHED)
@pytest.mark.parametrize("damage", ["truncated", "edited", "longer", "empty"])
def test_a_damaged_file(folder: Path, name: str, damage: str) -> None:
    data = (folder / name).read_bytes()
    flipped = bytes([data[len(data) // 2] ^ 1])
    damaged = {
        "truncated": data[:-1],
        "edited": data[: len(data) // 2] + flipped + data[len(data) // 2 + 1 :],
        "longer": data + b"\n",
        "empty": b"",
    }[damage]
    (folder / name).write_bytes(damaged)
    assert refusal(folder) == f"./{name} is not the file that config.json was saved with (its SHA-256 differs); {FIX}"


@pytest.mark.parametrize("name", NAMES)
def test_links_folders_and_huge_files_are_not_opened(folder: Path, tmp_path: Path, name: str) -> None:
    outside = (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(outside)
    assert refusal(folder) == f"./{name} is not a plain file; {FIX}"
    (folder / name).unlink()
    (folder / name).mkdir()
    assert refusal(folder) == f"./{name} is not a plain file; {FIX}"
    (folder / name).rmdir()
    os.mkfifo(folder / name)  # opening it would wait forever
    assert refusal(folder) == f"./{name} is not a plain file; {FIX}"
    (folder / name).unlink()
    with (folder / name).open("wb") as file:
        file.truncate(20 * 2**30)  # sparse
    assert refusal(folder).startswith(f"./{name} has 21,474,836,480 bytes; at most ")


def test_weights_larger_than_their_config(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(2**22)
    allowed = 2**20 + 4 * parts()["metrics"]["parameters"]
    assert refusal(folder) == f"./model.safetensors has 4,194,304 bytes; at most {allowed:,} are allowed; {FIX}"


def test_a_pickle_in_place_of_safetensors(folder: Path) -> None:
    archive = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, archive)
    for data in (pickle.dumps({"weight": 1}), archive.getvalue()):
        put(folder, "model.safetensors", data)
        expected = "./model.safetensors is a pickle, which can run code; save the weights as safetensors"
        assert refusal(folder) == expected


def test_a_header_that_begins_like_a_pickle_is_read(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    longer = size + (0x80 - size) % 256
    put(folder, "model.safetensors", longer.to_bytes(8, "little") + data[8 : 8 + size].ljust(longer) + data[8 + size :])
    assert (folder / "model.safetensors").read_bytes()[0] == 0x80
    read(folder)


def test_a_git_lfs_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    expected = "./model.safetensors is a Git LFS pointer; fetch the file itself with: git lfs pull"
    assert refusal(folder) == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"format": 2}, "has format 2, and this program reads format 1"),
        ("config.json", {"format": None}, "has format None, and this program reads format 1"),
        ("config.json", {"flash": 1}, "has unknown or missing fields (flash)"),
        ("config.json", {"architecture": "rnn"}, "is refused: architecture ('rnn') must be one of gpt, classic"),
        ("config.json", {"layers": "2"}, "is refused: layers ('2') must be a whole number from 1 to 256"),
        ("config.json", {"files": []}, "has no 'files' with the SHA-256 of each file"),
        ("config.json", {"files": {}}, f"lists unknown files or lacks some ({', '.join(HASHED)})"),
        ("metrics.json", {"steps": 3}, "belongs to another run: it has 3 steps, but log.jsonl ends at step 2"),
        ("metrics.json", {"nats_per_character": None}, "needs a number as nats_per_character, not None"),
        ("metrics.json", {"steps": True}, "needs a number as steps, not True"),
        ("metrics.json", {"steps": 0}, "has 0 steps: this model was never trained"),
        ("stoi.json", {"a": 1}, "is refused: the ids of a vocabulary of 97 symbols must be 0 to 96, once each"),
        ("stoi.json", {"a": "66"}, "is refused: the ids of a vocabulary of 97 symbols must be 0 to 96, once each"),
        ("itos.json", {"66": "b"}, "is not the inverse of stoi.json"),
        ("itos.json", {"97": "é"}, "is not the inverse of stoi.json"),
    ],
)  # fmt: skip
def test_a_foreign_value(folder: Path, name: str, change: dict, message: str) -> None:
    edit(folder, name, lambda value: value.update(change))
    assert refusal(folder) == f"./{name} {message}; {FIX}"


def test_a_missing_field_and_names_that_lead_outside(folder: Path) -> None:
    edit(folder, "config.json", lambda head: head.pop("heads"))
    assert refusal(folder) == f"./config.json has unknown or missing fields (heads); {FIX}"
    edit(folder, "config.json", lambda head: head.update(heads=2))
    read(folder)
    for name in ("../secret", "/etc/passwd", "notes.txt"):
        edit(folder, "config.json", lambda head, name=name: head["files"].update({name: "0" * 64}))
        assert refusal(folder) == f"./config.json lists unknown files or lacks some ({name}); {FIX}"
        edit(folder, "config.json", lambda head, name=name: head["files"].pop(name))


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (GPT, {"loops": 1}),
        (GPT, {"context": 65536}),
        (GPT, {"dropout": 0.5}),
        (CLASSIC, {"heads": 1}),
    ],
)
def test_a_config_of_the_same_shapes(tmp_path: Path, config, change: dict) -> None:
    save(tmp_path, **parts(config))
    edit(tmp_path, "config.json", lambda head: head.update(change))
    assert refusal(tmp_path) == f"./config.json is not the config that model.safetensors was saved with; {FIX}"


def test_weights_that_were_saved_without_a_config(folder: Path) -> None:
    put(folder, "model.safetensors", to_safetensors(parts()["weights"]))
    assert refusal(folder) == f"./config.json is not the config that model.safetensors was saved with; {FIX}"


def test_another_vocabulary(folder: Path) -> None:
    put(folder, "stoi.json", b'{"a": 0, "b": 1}')
    put(folder, "itos.json", b'{"0": "a", "1": "b"}')
    assert refusal(folder) == f"./stoi.json has 2 symbols, but config.json has vocab_size 97; {FIX}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "is not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"[1]", "does not hold a JSON object"),
        (b'{"steps": NaN}', "is not valid JSON ('NaN' is not a finite number)"),
        (b'{"steps": 1e999}', "is not valid JSON ('1e999' is not a finite number)"),
        (b'{"nats_per_character": 1%s}' % (b"0" * 400), f"is not valid JSON ('1{'0' * 35}... is not a finite number)"),
        (b'{"steps": 1%s}' % (b"0" * 5000), f"is not valid JSON ('1{'0' * 35}... is not a finite number)"),
        (b"\xff\xfe\xfa", "is not valid JSON ("),
        (b"[" * 100_000, "is not valid JSON ("),
    ],
)
def test_invalid_json(folder: Path, text: bytes, reason: str) -> None:
    for name in ("metrics.json", "stoi.json"):
        put(folder, name, text)
        assert refusal(folder).startswith(f"./{name} {reason}")
    (folder / "config.json").write_bytes(text)
    assert refusal(folder).startswith(f"./config.json {reason}")


@pytest.mark.parametrize(("log", "last"), [(b"", "None"), (b'{"step": 1}\n', "1"), (b'{"loss": 1}\n', "None")])
def test_a_log_of_another_run(folder: Path, log: bytes, last: str) -> None:
    put(folder, "log.jsonl", log)
    expected = f"./metrics.json belongs to another run: it has 2 steps, but log.jsonl ends at step {last}; {FIX}"
    assert refusal(folder) == expected


def test_weights_that_do_not_fit(folder: Path) -> None:
    weights, name = parts()["weights"], "embedding.weight"
    foreign = "does not match config.json: a weight is unknown or missing"
    for changed, message in (
        ({}, f"{foreign} (blocks.0.attention.k_norm.weight)"),
        (weights | {"zzz": np.zeros(1)}, f"{foreign} (zzz)"),
        (
            weights | {name: weights[name][:96]},
            "has embedding.weight of shape (96, 32), but config.json requires (97, 32)",
        ),
        (
            weights | {name: weights[name].astype(np.float64)},
            "has embedding.weight as F64; only F16 and F32 are allowed",
        ),
        (weights | {name: weights[name] * np.nan}, "has NaN or infinity in embedding.weight"),
        (weights | {name: np.full((97, 32), np.inf, np.float16)}, "has NaN or infinity in embedding.weight"),
    ):
        put(folder, "model.safetensors", to_safetensors(changed))
        assert refusal(folder) == f"./model.safetensors {message}; {FIX}"


def test_safetensors_with_a_wrong_header(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    for lie in (data[:-4], data + b"1234", b"\xff" * 8 + data[8:], data[:4], b"{}", data.replace(b"F32", b"F99", 1)):
        put(folder, "model.safetensors", lie)
        assert refusal(folder).startswith("./model.safetensors is not a valid safetensors file (")


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", Path("a\0b")):
        expected = ". is not a folder; give one that holds a config.json, such as artifacts/pocket"
        assert refusal(path) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"metrics": {"nats_per_character": float("nan")}},
            "metrics.json cannot be written (Out of range float values",
        ),
        (
            {"log": []},
            "{folder}/metrics.json belongs to another run: it has 2 steps, but log.jsonl ends at step None; ",
        ),
        ({"log": [{"step": 2, "note": "a" * 2**22}]}, "log.jsonl would have 4,194,"),
        ({"weights": {}}, "{folder}/model.safetensors does not match config.json: "),
        ({"config": CLASSIC}, "{folder}/stoi.json has 97 symbols, but config.json has vocab_size 57; "),
    ],
)
def test_parts_that_do_not_fit_are_not_saved(folder: Path, change: dict, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        save(folder, **parts() | change)
    assert str(caught.value).startswith(message.format(folder=folder))
    read(folder)
    assert os.listdir(folder.parent) == [folder.name]


# Saving over an older artifact. The old one has 2 steps; the new one has 5.


@pytest.fixture(params=["exchange", "two renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways of replacing the old folder by the new one."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    elif sys.platform != "linux":
        pytest.skip("only Linux swaps two names in one step")
    return request.param


def test_saving_replaces_the_folder_and_keeps_other_files(folder: Path, swap: str) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "model.onnx").write_text("of the old weights")
    save(folder, **parts(steps=5))
    assert read(folder).metrics["steps"] == 5
    assert sorted(os.listdir(folder)) == sorted([*NAMES, "notes.txt"])
    assert os.listdir(folder.parent) == [folder.name]


def test_saving_through_a_link_replaces_what_it_points_to(folder: Path, swap: str) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    save(link, **parts(steps=5))
    assert link.is_symlink()
    assert read(folder).metrics["steps"] == 5


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("mine")
    with pytest.raises(ArtifactError) as caught:
        save(tmp_path / "tiny", **parts())
    reason = "cannot be saved (Not a directory); make room or choose another folder"
    assert str(caught.value) == f"{tmp_path / 'tiny'} {reason}"
    assert (tmp_path / "tiny").read_text() == "mine"


OPERATIONS = [(Path, "mkdir"), (Path, "open"), (os, "fsync"), (os, "rename"), (shutil, "rmtree"), (atomic, "_exchange")]


def fail(patch: pytest.MonkeyPatch, at: int, *, crash: bool) -> Iterator[int]:
    """Makes disk operation number `at` fail as on a full disk. With `crash` all later operations fail too.

    The returned iterator counts the operations.
    """
    count = itertools.count(1)

    def failing(real: Callable) -> Callable:
        def operation(*arguments, **options):
            number = next(count)
            if number == at or (crash and number > at):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return operation

    for owner, name in OPERATIONS:
        patch.setattr(owner, name, failing(getattr(owner, name)))
    return count


@pytest.mark.parametrize("crash", [False, True], ids=["full disk", "crash"])
def test_after_any_failure_the_artifact_is_the_old_or_the_new_one(folder: Path, swap: str, crash: bool) -> None:
    (folder / "notes.txt").write_text("mine")
    before = sorted(os.listdir(folder))
    for at in itertools.count(1):
        save(folder, **parts(steps=2))
        with pytest.MonkeyPatch.context() as patch:
            count = fail(patch, at, crash=crash)
            failed = False
            try:
                save(folder, **parts(steps=5))
            except ArtifactError as error:
                failed = True
                expected = "cannot be saved (No space left on device); make room or choose another folder"
                assert str(error) == f"{folder} {expected}"
            if next(count) <= at:  # every operation has failed once
                break
        if folder.exists():
            assert read(folder).metrics["steps"] == (2 if failed else 5)
        else:
            assert crash and swap == "two renames"
        if not crash and failed:
            assert sorted(os.listdir(folder)) == before
    save(folder, **parts(steps=7))
    assert read(folder).metrics["steps"] == 7
    assert sorted(os.listdir(folder)) == before
    assert os.listdir(folder.parent) == [folder.name]
    assert at > 20


def test_a_failed_first_save_leaves_nothing(tmp_path: Path) -> None:
    for at in (1, 2, 9, 16):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ArtifactError):
            fail(patch, at, crash=False)
            save(tmp_path / "tiny", **parts())
        assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two names in one step")
def test_a_reader_sees_the_old_or_the_new_at_any_moment(folder: Path) -> None:
    def save_marked(steps: int) -> None:
        given = parts(steps=steps)
        given["weights"]["norm.weight"][0] = steps
        save(folder, **given)

    saved = threading.Event()
    seen: list[object] = []

    def read_on() -> None:
        while not saved.is_set():
            try:
                artifact = read(folder)
                seen.append(artifact.metrics["steps"] - artifact.weights["norm.weight"][0])
            except ArtifactError as error:
                seen.append(error)

    save_marked(1)
    reader = threading.Thread(target=read_on)
    reader.start()
    for steps in range(2, 30):
        save_marked(steps)
    saved.set()
    reader.join()
    assert set(seen) == {0}


def test_line_ends_of_git_for_windows_are_no_damage(folder: Path, tiny_artifact: Path) -> None:
    texts = [folder / name for name in NAMES if name != "model.safetensors"]
    for path in texts:
        data = path.read_bytes().replace(b"\n", b"\r\n")
        assert data != path.read_bytes()
        path.write_bytes(data)
    assert artifacts.file_bytes(folder) == artifacts.file_bytes(tiny_artifact)  # and these are what a push sends
    assert read(folder).card == read(tiny_artifact).card
    artifacts.add_figures(folder, {"extra": 1}, "# other\n")
    assert read(folder).metrics["extra"] == 1
    assert not any(b"\r" in path.read_bytes() for path in texts)
    card = folder / "README.md"
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r"))
    with pytest.raises(ArtifactError, match=r"README\.md is not the file that config\.json was saved with"):
        read(folder)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_the_name_of_the_default_ends_with_its_line(tmp_path: Path, end: str) -> None:
    (tmp_path / "default").write_bytes(f"toy{end}not this{end}".encode() if end else b"toy")
    assert artifacts.read_default(tmp_path) == "toy"
