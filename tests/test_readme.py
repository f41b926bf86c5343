"""The README keeps its word: its figures are those of the runs, its commands parse, its front matter is valid."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import model
from model.__main__ import build_parser
from train.__main__ import configure, flags
from train.report import ORIGINAL, fill, results

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith((".venv/bin/python ", "make ", "git "))
]
ARTIFACTS = ("pocket", "classic", "classic-onecycle")


def test_tables_are_made_of_the_runs_own_figures() -> None:
    blocks = results(ROOT / "artifacts", ROOT / "docs" / "runs")
    assert fill(README, blocks) == README, "python -m train.report renews the tables"
    assert all(f"[{name}](artifacts/{name})" in blocks["results"] for name in ARTIFACTS)
    assert all(f"`{name}`" in blocks["seeds"] for name in ORIGINAL)


def test_front_matter_is_what_the_hub_takes() -> None:
    front = yaml.safe_load(README.split("---\n")[1])
    pin = re.search(r"^gradio\[mcp\]==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert pin and front["sdk_version"] == pin[1]
    assert front["sdk"] == "gradio" and (ROOT / front["app_file"]).exists()
    assert front["python_version"] == "3.12"
    assert len(front["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {front["colorFrom"], front["colorTo"]} <= colours
    assert front["license"] == "mit" and front["datasets"] == ["roneneldan/TinyStories"]
    assert {"title", "emoji", "models", "tags"} <= front.keys()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("package", ["model", "page", "train"])
def test_the_annotated_tree_is_the_tree(package: str) -> None:
    tree = README.split(f"\n{package}/")[1]
    named = re.match(r".*\n((?:  \w+\.\w+ .*\n)+)", tree)
    assert named
    there = {path.name for path in (ROOT / package).glob("*.*")} - {"__init__.py"}
    assert {line.split()[0] for line in named[1].splitlines()} == there


@pytest.mark.parametrize("command", [c for c in COMMANDS if " -m train " in c or c.startswith("make train ARGS=")])
def test_a_training_command_parses(command: str) -> None:
    words = shlex.split(command)
    argv = shlex.split(words[2].removeprefix("ARGS=")) if words[0] == "make" else words[3:]
    if "--help" not in argv:
        configure(flags().parse_args(argv))


@pytest.mark.parametrize("command", [c for c in COMMANDS if " -m model " in c])
def test_a_telling_command_parses(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[3:])


def test_there_are_commands_to_test() -> None:
    assert sum(" -m model " in c or " -m train" in c or c.startswith("make ") for c in COMMANDS) >= 8
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {c.split()[1] for c in COMMANDS if c.startswith("make ")} <= targets


def test_the_python_example_runs() -> None:
    example = re.search(r"^```python\n(import model\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert example
    run = subprocess.run([sys.executable, "-c", example[1]], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout) > 100


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_shipped_artifact_keeps_its_promises(name: str) -> None:
    """It loads (hashes, shapes, step counts), is causal, tells, and its card quotes its own figures."""
    import torch

    storyteller = model.load(ROOT / "artifacts" / name)
    metrics = storyteller.metrics
    assert metrics["parameters"] == sum(p.numel() for p in storyteller.network.parameters()) <= 211_922
    assert f"| nats per character | {metrics['nats_per_character']:.4f} " in storyteller.card
    assert metrics["commit"] and not metrics["commit"].endswith("+")
    ids = torch.tensor([storyteller.vocab.encode("Once upon a time there")])
    changed = ids.clone()
    changed[:, 12:] = storyteller.vocab.stoi["z"]
    torch.testing.assert_close(
        storyteller.network(changed)[:, :12], storyteller.network(ids)[:, :12], atol=1e-5, rtol=0
    )
    story = "".join(storyteller.tell("Once upon a time", model.Sampling(length=120, seed=1)))
    assert len(story.split()) > 10


def test_nothing_tracked_is_too_big_for_a_plain_push() -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in names.split("\0") if name]
    assert [path.name for path in files if path.exists() and path.stat().st_size > 10 * 2**20] == []


def test_the_answers_are_those_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    questions = importlib.import_module("questions")
    assert fill(README, {"questions": questions.table(questions.outcomes())}) == README
