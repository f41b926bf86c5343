"""What fails between here and the Hub, as its client says it, with one mend; and whether it passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HfHubHTTPError, HTTPError

from model.hub import LOGIN
from train.push.contents import PushError

HARDWARE = "zero-a10g"  # free for an account in good standing; a Gradio Space on cpu-basic is not
FAILURES = (HTTPError, OSError, RuntimeError, ValueError)  # that the client raises; ValueError for a refused README
TOKENS = "https://huggingface.co/settings/tokens"
MENDS = {  # by status; 0 stands for no answer, 500 for all from there on
    0: "check the network and push again",
    400: "mend that and push again",
    401: f"{LOGIN} to a token of {TOKENS}",
    402: f"a free account may hold two Spaces, on {HARDWARE}; for more see https://huggingface.co/pro",
    403: f"take a token with write access from {TOKENS}, or push to a Space of your own",
    404: "check the name, and that the token may see it",
    412: "somebody else pushed at the same time and nothing was overwritten; look what it was, and push again",
    429: "push again later",
    500: "push again later; https://status.huggingface.co tells more",
}


@contextmanager
def plainly(url: str) -> Iterator[None]:
    """Turns what the Hub's client raises inside the block into a PushError that names `url` and the mend."""
    try:
        yield
    except FAILURES as error:
        mend = MENDS.get(min(_answer(error)[0], 500), "look there")
        raise PushError(f"{url}: {said(error)}: {mend}") from error


def said(error: BaseException) -> str:
    """What failed, in the words of the Hub or of its client."""
    status, words, asked = _answer(error)
    words += f", Retry-After: {asked}" if asked else ""
    return f"the Hub refused ({status}: {words})" if status else f"the exchange with the Hub broke off ({words})"


def passes_in(error: BaseException, usual: float) -> float | None:
    """Seconds until what failed may work, `usual` unless the Hub asks for others; None for what does not pass."""
    status, _, asked = _answer(error)
    if 0 < status < 500 and status != 429:
        return None
    return float(asked) if asked.isdigit() else usual


def _answer(error: BaseException) -> tuple[int, str, str]:
    """The status (0 without an answer, 400 for what the client itself refuses), the words, the seconds to wait."""
    cause: BaseException | None = error  # the client wraps what happens in an upload into errors of its own
    while cause is not None and not isinstance(cause, HTTPError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, HfHubHTTPError):
        words = cause.server_message or cause.response.reason_phrase
        return cause.response.status_code, " ".join(words.split()), cause.response.headers.get("Retry-After", "")
    words = " ".join(str(cause or error).split()) or type(error).__name__
    return 400 if cause is None and isinstance(error, ValueError) else 0, words, ""
