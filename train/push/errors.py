"""Turns errors of the Hub's client into one message with a fix, and tells which errors are worth a retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HfHubHTTPError, HTTPError

from model.hub import LOGIN
from train.push.contents import PushError

HARDWARE = "zero-a10g"  # free for an account in good standing; cpu-basic is not free for a Gradio Space
# the errors that the client raises; ValueError is a refused README, ImportError a package that a SOCKS proxy needs
FAILURES = (HTTPError, OSError, RuntimeError, ValueError, ImportError)
TOKENS = "https://huggingface.co/settings/tokens"
FIXES = {  # by status; 0 means no answer, and 500 also covers all higher ones
    0: "check the network and push again",
    400: "fix that and push again",
    401: f"{LOGIN} to a token of {TOKENS}",
    402: f"a free account may hold two Spaces, on {HARDWARE}; for more see https://huggingface.co/pro",
    403: f"take a token with write access from {TOKENS}, or push to a Space of your own",
    404: "check the name, and that the token may see it",
    412: "somebody else pushed at the same time; nothing was overwritten: look at that change, and push again",
    429: "push again later",
    500: "push again later; see https://status.huggingface.co",
}


@contextmanager
def as_push_errors(url: str) -> Iterator[None]:
    """Turns errors of the Hub's client in this block into a PushError that names `url` and the fix."""
    try:
        yield
    except FAILURES as error:
        fix = FIXES.get(min(_status_and_text(error)[0], 500), "look at that page")
        raise PushError(f"{url}: {error_text(error)}: {fix}") from error


def error_text(error: BaseException) -> str:
    """Returns what failed, in the words of the Hub or of its client."""
    status, words, asked = _status_and_text(error)
    words += f", Retry-After: {asked}" if asked else ""
    return f"the Hub refused ({status}: {words})" if status else f"the request to the Hub failed ({words})"


def retry_delay(error: BaseException, usual: float) -> float | None:
    """Returns the seconds before a retry: what the Hub asks for, else `usual`. Returns None if a retry cannot help."""
    status, _, asked = _status_and_text(error)
    if 0 < status < 500 and status != 429:
        return None
    return float(asked) if asked.isdigit() else usual


def _status_and_text(error: BaseException) -> tuple[int, str, str]:
    """Returns the status (0: no answer, 400: refused by the client itself), the text, and the seconds to wait."""
    cause: BaseException | None = error  # the client wraps errors of an upload in errors of its own
    while cause is not None and not isinstance(cause, HTTPError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, HfHubHTTPError):
        words = cause.server_message or cause.response.reason_phrase
        return cause.response.status_code, " ".join(words.split()), cause.response.headers.get("Retry-After", "")
    words = " ".join(str(cause or error).split()) or type(error).__name__
    return 400 if cause is None and isinstance(error, ValueError) else 0, words, ""
