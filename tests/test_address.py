"""Where the page is served: each variable of the environment is honoured, or refused in one line."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from serving import ROOT

from page import address
from page.address import TAKEN, check_environment, find_address


def found(**given: str) -> tuple[str, int]:
    return find_address(dict.fromkeys(TAKEN, "") | {f"GRADIO_{name}": value for name, value in given.items()})


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of this machine on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "served"),
    [("", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("localhost", "localhost"), ("::1", "[::1]"), ("[::1]", "[::1]")],
)
def test_a_name_and_a_port_are_honoured(name: str, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_is_free", lambda host, port: True)  # not every machine has IPv6
    assert found(SERVER_NAME=name, SERVER_PORT=" 8001 ") == (served, 8001)


def test_without_a_port_it_is_the_first_that_is_free(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "FIRST_PORT", taken)
    host, port = found()
    assert host == "127.0.0.1" and taken < port < taken + 100
    message = f"the ports {taken} to {taken} are taken: give a free one as GRADIO_SERVER_PORT"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        found(NUM_PORTS="1")


def test_a_port_that_is_given_is_no_other(taken: int) -> None:
    message = f"GRADIO_SERVER_PORT ({taken}) is taken by another program: stop it, or give another port"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        found(SERVER_PORT=str(taken))


@pytest.mark.parametrize("port", ["x", "0", "65536", "-1", "80.5", "8_000", "\u0663", " ", "9" * 5000])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    message = f"GRADIO_SERVER_PORT ({port}) must be a whole number from 1 to 65,535"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        found(SERVER_PORT=port)


@pytest.mark.parametrize("name", ["192.0.2.1", "http://127.0.0.1", "127.0.0.1:80", "a..b", "no such name"])
def test_a_name_that_is_no_address_is_refused(name: str) -> None:
    message = f"GRADIO_SERVER_NAME ({name}) is no address of this machine: "
    with pytest.raises(ValueError, match=re.escape(message) + "give 127.0.0.1 for this machine alone, 0.0.0.0 for "):
        found(SERVER_NAME=name, SERVER_PORT="8001")


@pytest.mark.parametrize("name", ["GRADIO_DEBUG", "WEB_CONCURRENCY", "GRADIO_ANALYTICS_MAX_EVENTS"])
def test_other_numbers_are_checked(name: str) -> None:
    check_environment({name: "1"})
    with pytest.raises(ValueError, match=rf"^{name} \(many\) must be a whole number from 0 to 2,147,483,647$"):
        check_environment({name: "many"})


def test_no_limit_is_no_number() -> None:
    check_environment({"GRADIO_DEFAULT_CONCURRENCY_LIMIT": "none"})


def test_a_root_path_is_checked() -> None:
    for path in ("", "/", "/stories/", "https://example.com", "https://example.com/stories"):
        check_environment({"GRADIO_ROOT_PATH": path})
    for path in ("stories", "http://", "/a b", "/a?b", "ftp://example.com"):
        message = f"GRADIO_ROOT_PATH ({path}) is no path that begins with /: "
        with pytest.raises(ValueError, match=re.escape(message)):
            check_environment({"GRADIO_ROOT_PATH": path})


def test_the_page_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_PORT", "many")
    run = subprocess.run([sys.executable, "app.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    message = "error: GRADIO_SERVER_PORT (many) must be a whole number from 1 to 65,535\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", message)
