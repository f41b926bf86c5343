"""What all commands share: paths with ~, and standard streams that are closed, full or unread."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import parts
from test_help import COMMANDS

import app
from model import __main__ as tell
from model import artifacts
from model.command import expanded, path
from train.push.__main__ import build_parser as push_parser

ROOT = Path(__file__).parent.parent
COMMAND = """
import sys
from model.command import Parser, run_command, stream_trouble
def main():
    parser = Parser(prog="speak")
    parser.add_argument("--lines", type=int, default=1)
    lines = parser.parse_args().lines
    try:
        sys.stdin.isatty() or sys.stdin.buffer.read()
    except OSError as error:
        print("input:", stream_trouble(error), file=sys.stderr)
    for _ in range(lines):
        print("L\\xfcge \\u0939")
    print("done", file=sys.stderr)
run_command(main)
"""
FULL = (
    "error: standard output cannot be written (No space left on device): send it to a disk with room, or to /dev/null\n"
)
CLOSED = "error: standard output cannot be written (it is closed): send it to a disk with room, or to /dev/null\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # on Windows
    return tmp_path


def test_a_path_may_begin_with_the_home_folder(home: Path) -> None:
    assert path("~/x") == home / "x" and path("~") == home
    assert (path("./~x"), path("a~/b"), expanded("pocket")) == (Path("~x"), Path("a~/b"), "pocket")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "is empty: give a path, or omit the flag"),
        ("~no-such-user/x", "(~no-such-user/x) names no user's home folder: give the whole path, or ./~no-such-user/x"),
    ],
)
def test_a_path_that_names_nothing_is_refused(given: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        path(given)
    assert str(refused.value) == message


def test_every_command_takes_a_path_in_the_home_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts.save(home / "artifacts" / "mine", **parts())
    assert tell.main(["Once", "--length", "1", "--model", "~/artifacts/mine"]) == 0
    assert f"{home / 'artifacts' / 'mine'}: " in capsys.readouterr().err
    assert push_parser().parse_args(["user/space", "--artifact", "~/mine", "two"]).artifact == [
        f"{home / 'mine'}",
        "two",
    ]
    assert app.build_parser().parse_args(["--artifacts=~/artifacts"]).artifacts == home / "artifacts"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no /dev/full")
@pytest.mark.parametrize("flag", ["", "-u"])
@pytest.mark.parametrize(
    ("arguments", "status", "notes"),
    [
        ("> /dev/full", 2, FULL),
        ("--help > /dev/full", 2, FULL),
        (">&-", 2, CLOSED),
        ("--help >&-", 2, CLOSED),
        ("<&- > /dev/null", 0, "input: it is closed\ndone\n"),
        ("<&- >&- 2>&-", 2, ""),
        ("2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
        ("--lines x 2> /dev/full", 2, ""),
        ("--lines x", 2, "speak: error: argument --lines: invalid int value: 'x'\n"),
        ("--lines 100000 | head -1", 141, ""),
        ("", 0, ""),
    ],
)
def test_a_stream_that_cannot_be_used_costs_one_line(flag: str, arguments: str, status: int, notes: str) -> None:
    command = f'"$0" {flag} -c "$1" {arguments}; exit ${{PIPESTATUS[0]}}'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    run = subprocess.run(
        ["bash", "-c", command, sys.executable, COMMAND],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=20,
    )
    # with -u the first line fails, otherwise the last flush
    assert (run.returncode, run.stderr.decode().removeprefix("done\n")) == (status, notes)
    if run.stdout.startswith(b"L"):  # a character that the locale lacks is escaped
        assert run.stdout.startswith(b"L\xfcge \\u0939\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    code = "import os, time; from model.command import run_command; run_command(lambda: os.kill(os.getpid(), 2))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=20)
    assert (run.returncode, run.stdout, run.stderr) == (128 + signal.SIGINT, b"", b"\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_under_these_rules(name: str) -> None:
    source = Path(importlib.util.find_spec(name).origin).read_text("utf-8")
    guard = [node for node in ast.parse(source).body if isinstance(node, ast.If)][-1]
    assert ast.unparse(guard) == "if __name__ == '__main__':\n    run_command(main)"
