"""All dependencies are pinned, Gradio by the lock file alone, and locked with hashes; every licence is listed."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))
FROM_PYPI = re.compile(r"nvidia-|cuda-|triton")  # dependencies of PyTorch for GPUs, which PyTorch for the CPU lacks


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def test_every_requirement_is_pinned() -> None:
    for each in requirements("requirements.txt") + requirements("requirements-dev.txt"):
        expected = r"<7,>=6\.\d+" if each.name == "gradio" else r"==[\w.]+"
        assert re.fullmatch(expected, str(each.specifier)), each


def test_the_page_has_the_pins_of_the_whole_and_no_torch() -> None:
    page, whole = (set(map(str, requirements(name))) for name in ("requirements-page.txt", "requirements.txt"))
    assert page < whole
    assert {Requirement(each).name for each in whole - page} == {"torch", "onnx", "tqdm"}
    assert not {each.name for each in requirements("requirements-dev.txt")} & {Requirement(each).name for each in whole}


def test_the_lock_is_that_of_the_requirements() -> None:
    for each in requirements("requirements.txt"):
        assert each.specifier.contains(LOCKED[each.name.lower().replace("_", "-")]), each


def test_every_locked_package_has_hashes() -> None:
    assert len(LOCKED) > 50
    for block in re.split(r"^(?=[a-z0-9-]+==)", LOCK, flags=re.MULTILINE)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


def test_every_licence_is_listed() -> None:
    rows = re.findall(r"^\| (\S+) +\| (.+?) +\|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    listed = {name.lower().replace("_", "-"): licence for name, licence in rows}
    assert {name for name in LOCKED if not FROM_PYPI.match(name)} <= listed.keys()
    assert not [name for name, licence in listed.items() if licence == "UNKNOWN"]
    assert not [name for name, licence in listed.items() if re.search(r"\bA?GPL", licence)]
