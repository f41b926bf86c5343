"""Files of the cache: they are replaced atomically, and hashed again only if size or time differs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from train.text import files
from train.text.corpus import prepare
from train.text.files import cached_sha256, replace_file

HOUR_AGO = time.time_ns() - 3_600_000_000_000


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, in order."""
    names: list[str] = []
    original = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: names.append(path.name) or original(path))
    return names


def write(path: Path, data: bytes, changed: int = HOUR_AGO) -> str:
    """Writes a file and sets the time of its last change. Returns its SHA-256."""
    path.write_bytes(data)
    os.utime(path, ns=(changed, changed))
    return hashlib.sha256(data).hexdigest()


def known(path: Path) -> str:
    with cached_sha256(path.parent) as digest:
        return digest(path)


def test_a_file_is_read_again_when_its_size_or_time_differs(tmp_path: Path, read: list[str]) -> None:
    path, moved = tmp_path / "a.txt", tmp_path / "b.txt"
    first = write(path, b"one")
    assert known(path) == known(path) == first and read == ["a.txt"]
    write(path, b"two")
    assert known(path) == first and read == ["a.txt"]  # as documented: size and time are unchanged
    assert known(path) != write(path, b"two", HOUR_AGO + 1) == known(path) and len(read) == 2
    assert write(path, b"three", HOUR_AGO + 1) == known(path) == known(path) and len(read) == 3
    path.rename(moved)
    with pytest.raises(FileNotFoundError):
        known(path)
    known(moved)
    assert list(json.loads((tmp_path / "sources.json").read_text())) == [str(moved)]  # without deleted files
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.txt", "sources.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]", b"[1]", b"[" * 100_000, b"{}", "numbers", "short"])
def test_a_damaged_record_causes_only_a_new_reading(tmp_path: Path, read: list[str], damage: bytes | str) -> None:
    path, record = tmp_path / "a.txt", tmp_path / "sources.json"
    digest = write(path, b"one")
    entries = {"numbers": [3, HOUR_AGO, 5], "short": [3, HOUR_AGO]}
    record.write_bytes(damage if isinstance(damage, bytes) else json.dumps({str(path): entries[damage]}).encode())
    assert known(path) == known(path) == digest and read == ["a.txt"]


def test_a_prepared_text_is_not_read_again(tmp_path: Path, read: list[str]) -> None:
    """Neither its source nor its cached parts are read until one of them changes."""
    source, cache = tmp_path / "a.txt", tmp_path / "cache"
    write(source, b"One.\n<|endoftext|>\nTwo.\n<|endoftext|>\nThree.")
    folder = Path(prepare(source, cache=cache).train.filename).parent
    for expected in (["held-out.bin", "train.bin", "valid.bin"], []):
        read.clear()
        whole = bytes(prepare(source, cache=cache).train)
        assert read == expected and len(whole) == 11
    write(folder / "train.bin", bytes(11))
    assert bytes(prepare(source, cache=cache).train) == whole and "train.bin" in read


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.txt", tmp_path / "folder"
    write(path, b"old")
    folder.mkdir()
    replace_file(path, b"new")
    with pytest.raises(OSError, match="folder"):
        replace_file(folder, b"new")
    assert path.read_bytes() == b"new" and sorted(tmp_path.iterdir()) == [path, folder]
