"""python -m model: the story goes to stdout, all else to stderr, and it ends cleanly in every case."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import parts

import model
from model import __main__, artifacts
from model.sampling import USUAL

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with two models in artifacts/ and one that is broken."""
    home = tmp_path_factory.mktemp("home")
    artifacts.save(home / "artifacts" / "better", **parts(nats=1.0))
    artifacts.save(home / "artifacts" / "worse", **parts(nats=2.0))
    (home / "artifacts" / "broken").mkdir()
    return home


@pytest.fixture
def tell(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in `home`; returns its exit status, stdout and stderr."""
    monkeypatch.chdir(home)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = __main__.main(arguments)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def start(home: Path, *arguments: str, **options) -> subprocess.Popen[bytes]:
    """Starts the command as a process in `home`."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "model", *arguments],
        cwd=home,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{home}", "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


SETTINGS = ", ".join(
    f"{name.replace('_', '-')} {getattr(replace(USUAL, length=40, seed=7), name)}" for name in model.SETTINGS
)
MODEL = "artifacts/better: 29,952 parameters, 1.0000 nats per character"
SKIPPED = f"skipped: artifacts/broken/config.json is missing; {artifacts.FIX}"


def test_tells_with_the_best_model(tell) -> None:
    status, story, notes = tell("Once", "--length", "40", "--seed", "7")
    assert status == 0
    assert story.startswith("Once")
    assert story.endswith("\n")
    assert 5 < len(story) <= 45
    assert notes.splitlines() == [SKIPPED, f"{MODEL}; {SETTINGS}"]


def test_the_seed_that_is_shown_tells_the_same_story(tell) -> None:
    _, story, notes = tell("Once", "--length", "40", "--model", "artifacts/worse")
    seed = re.search(r"seed (\d+)", notes)[1]
    assert tell("Once", "--length", "40", "--model", "artifacts/worse", "--seed", seed) == (0, story, notes)
    assert tell("Once", "--length", "40", "--model", "artifacts/worse")[1] != story


def test_every_setting_reaches_the_story(tell) -> None:
    given = ("--length", "9", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--min-p", "0.1", "--seed", "4")
    given += ("--drafts", "2", "--beams", "3")
    _, _, notes = tell("Once", "--model", "artifacts/better", *given)
    expected = "length 9, temperature 0.5, top-k 3, top-p 0.9, min-p 0.1, seed 4, drafts 2, beams 3"
    assert notes == f"{MODEL}; {expected}\n"


def test_lost_parts_of_the_prompt_are_named(tell) -> None:
    """With drafts, the prompt must leave room for one sentence in the context."""
    for given, read, before in (("--drafts=1", 32, 10), ("--drafts=2", 17, 25)):
        result = tell("a☃b" + "c" * 40, "--model", "artifacts/better", "--length", "1", "--beams", "1", given)
        assert result[1].startswith("ab" + "c" * 40)
        assert result[2].splitlines()[1:] == [
            "left out, because the model does not know them: ☃",
            f"the model reads the last {read} characters of the prompt, not the {before} before",
        ]


def test_no_prompt_is_a_story_from_its_start(tell) -> None:
    status, story, _ = tell("--length", "12", "--seed", "2")
    assert status == 0
    assert story == tell("", "--length", "12", "--seed", "2")[1]
    again = tell("\u0915\u093f, \u202e\udc80", "--length", "12", "--seed", "2")  # known is only the comma
    assert again[:2] == (0, story)
    assert again[2].splitlines()[2:] == [
        "left out, because the model does not know them: \u0915 \u25cc\u093f U+202E U+DC80 ,",
        "no letter of the prompt is left: the story begins from the start",
    ]


def test_lists_the_models(tell) -> None:
    status, listed, notes = tell("--list")
    assert status == 0
    assert listed.splitlines() == [MODEL, MODEL.replace("better", "worse").replace("1.0000", "2.0000")]
    assert notes == SKIPPED + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "3"], "temperature (3.0) must be a number from 0 to 2"),
        (["--temperature", "nan"], "temperature (nan) must be a number from 0 to 2"),
        (["--temperature", "hot"], "argument --temperature: invalid float value: 'hot'"),
        (["--length", "0"], "length (0) must be a whole number of at least 1"),
        (["--length", "1.5"], "argument --length: invalid int value: '1.5'"),
        (["--top-p", "0"], "top_p (0.0) must be a number above 0 and at most 1 (1 keeps all)"),
        (["--seed", "-1"], "seed (-1) must be a whole number from 0 to 2**63 - 1, or None"),
        (["--temp", "1"], "unrecognized arguments: --temp"),
        (["Once", "upon"], "unrecognized arguments: upon"),
    ],
)
def test_a_usage_error_is_one_line(tell, arguments: list[str], message: str) -> None:
    assert tell(*arguments) == (2, "", f"python -m model: error: {message}\n")


def test_no_model(tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = "no model in artifacts/; train one with: .venv/bin/python -m train --preset pocket"
    assert tell("Once") == tell("--list") == (1, "", f"python -m model: error: {expected}\n")
    expected = "nowhere is not a folder; give one that holds a config.json, such as artifacts/pocket"
    assert tell("Once", "--model", "nowhere") == (1, "", f"python -m model: error: {expected}\n")


def test_reads_the_prompt_from_standard_input(home: Path) -> None:
    process = start(home, "-", "--length", "3", "--seed", "1", stdin=subprocess.PIPE)
    story, notes = process.communicate("Tom\nand L\xfc\n".encode("latin-1"))
    assert process.returncode == 0
    assert story.startswith(b"Tom\nand L")
    assert "left out, because the model does not know them: \ufffd\n" in notes.decode()


SHORT = "--length", "20", "--seed", "1", "--drafts", "1", "--beams", "1"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_the_last_line_end_of_the_input_is_no_part_of_the_prompt(
    tell, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(text: str) -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        status, story, _ = tell("-", *SHORT)
        assert status == 0
        return story

    assert told(f"Tom\nand{end}") == tell("Tom\nand", *SHORT)[1]
    if end:
        assert told(f"Tom{end}and") == tell("Tom\nand", *SHORT)[1]
        assert told(f"Tom{end}{end}") == tell("Tom\n", *SHORT)[1] != told("Tom")  # only one of them


def test_half_a_line_end_of_an_argument_is_no_part_of_the_prompt(tell) -> None:
    assert tell("Tom\r", *SHORT) == tell("Tom", *SHORT)  # as of "$(cat FILE)"
    assert tell("Tom\n", *SHORT) != tell("Tom", *SHORT)


def test_a_closed_standard_input_is_refused(home: Path) -> None:
    command = ["bash", "-c", 'exec "$0" -m model - <&-', sys.executable]
    run = subprocess.run(command, cwd=home, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    message = "standard input cannot be read (it is closed): give the prompt as an argument"
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.splitlines()[-1] == f"python -m model: error: {message}"


def test_a_closed_pipe_ends_it_without_an_error_message(home: Path) -> None:
    with start(home, "Once", "--length", "100000", "--model", "artifacts/better", "--temperature", "0") as process:
        assert process.stdout.read(4) == b"Once"
        process.stdout.close()
        notes = process.stderr.read()
    assert process.returncode == 141
    assert len(notes.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_an_interrupt_ends_it_cleanly(home: Path) -> None:
    process = start(home, "Once", "--length", "1000000", "--model", "artifacts/better", "--temperature", "0")
    assert process.stdout.read(20).startswith(b"Once")  # the story has begun
    process.send_signal(signal.SIGINT)
    _, notes = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in notes


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_an_interrupt_during_the_imports_ends_it_cleanly(tmp_path: Path) -> None:
    (tmp_path / "safetensors.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = start(tmp_path, "Once")
    assert process.communicate(timeout=20) == (b"", b"\n")
    assert process.returncode == 130
