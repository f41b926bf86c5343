"""Where the page is served, and what else the environment says to Gradio: checked before Gradio fails on it."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping

LOCAL, FIRST_PORT, PORTS = "127.0.0.1", 7860, 100
# Gradio reads these when it is imported: app.py takes them away before
TAKEN = ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS", "GRADIO_NODE_NUM_PORTS")
NUMBERS = ("GRADIO_DEBUG", "GRADIO_NUM_WORKERS", "GRADIO_DEFAULT_CONCURRENCY_LIMIT", "WEB_CONCURRENCY")
NUMBERS += ("GRADIO_ANALYTICS_MAX_EVENTS", "GRADIO_ANALYTICS_CACHE_FREQUENCY")
ROOT_PATH = re.compile(r"(https?://[^\s/?#]+)?(/[^\s?#]*)?")


def find_address(given: Mapping[str, str]) -> tuple[str, int]:
    """Returns the name and the port to serve on. `given` holds the values of `TAKEN`, empty for those that are unset.

    Without a port it is the first free one from 7860 on. Raises ValueError, which names the variable and the mend.
    """
    name = given["GRADIO_SERVER_NAME"].strip() or LOCAL
    host = name.removeprefix("[").removesuffix("]")
    tries = _whole("GRADIO_NUM_PORTS", given["GRADIO_NUM_PORTS"] or str(PORTS), 1, 2**16 - FIRST_PORT)
    if given["GRADIO_SERVER_PORT"]:
        port = _whole("GRADIO_SERVER_PORT", given["GRADIO_SERVER_PORT"], 1, 2**16 - 1)
        if not _is_free(host, port):
            raise ValueError(f"GRADIO_SERVER_PORT ({port}) is taken by another program: stop it, or give another port")
    else:
        port = next((port for port in range(FIRST_PORT, FIRST_PORT + tries) if _is_free(host, port)), None)
        if port is None:
            last = FIRST_PORT + tries - 1
            raise ValueError(f"the ports {FIRST_PORT} to {last} are taken: give a free one as GRADIO_SERVER_PORT")
    return f"[{host}]" if ":" in host else host, port  # in brackets, as Gradio makes the page's address of it


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Raises ValueError for a variable that Gradio or its server would read later and fail on."""
    for name in NUMBERS:
        if environment.get(name, "none").lower() != "none":  # as Gradio writes that there is no limit
            _whole(name, environment[name], 0, 2**31 - 1)
    root = environment.get("GRADIO_ROOT_PATH", "")
    if not ROOT_PATH.fullmatch(root):
        fix = "give the path at which a proxy serves the page, such as /stories, or its whole address"
        raise ValueError(f"GRADIO_ROOT_PATH ({root}) is no path that begins with /: {fix}")


def _whole(name: str, text: str, least: int, most: int) -> int:
    number = int(text) if re.fullmatch(r"\s*[0-9]{1,10}\s*", text) else -1
    if not least <= number <= most:
        raise ValueError(f"{name} ({text}) must be a whole number from {least:,} to {most:,}")
    return number


def _is_free(host: str, port: int) -> bool:
    """Whether the port can be opened at this address. Raises ValueError where no port, or not this one, ever can."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                if os.name != "nt":  # where it would allow two programs on one port
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        if error.errno == errno.EACCES:
            fix = "give one from 1,024 on"
            raise ValueError(f"GRADIO_SERVER_PORT ({port}) is not open to this user: {fix}") from error
        raise _no_address(host) from error
    except UnicodeError as error:  # no name of a host can be written like this
        raise _no_address(host) from error
    return True


def _no_address(host: str) -> ValueError:
    fix = "give 127.0.0.1 for this machine alone, 0.0.0.0 for its network, or ::1"
    return ValueError(f"GRADIO_SERVER_NAME ({host}) is no address of this machine: {fix}")
