"""What all commands share: paths with ~."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from conftest import parts

import app
from model import __main__ as tell
from model import artifacts
from model.command import expanded, path
from train.push.__main__ import build_parser as push_parser


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
