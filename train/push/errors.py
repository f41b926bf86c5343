"""What the Hub refuses and what fails on the way there, in plain English; and whether to try again."""

from __future__ import annotations

from httpx2 import HTTPError
from huggingface_hub.errors import HfHubHTTPError

HARDWARE = "zero-a10g"  # free for an account in good standing; a Gradio Space on cpu-basic is not
TRIES, FIRST_WAIT, PATIENCE = 3, 1.0, 60  # how often a commit is sent; seconds between two, at first and at most
# What the Hub's client raises; a README that the Hub refuses is a ValueError, what its storage says a RuntimeError.
FAILURES = (HTTPError, OSError, RuntimeError, ValueError)


def explain(error: BaseException, url: str, hardware: str = HARDWARE, *, unchanged: bool = True) -> str:
    """An error of the Hub's client in plain English, with the mend; whether the Hub is `unchanged` the caller knows."""
    cause, intact = _http_cause(error), "nothing was changed: " if unchanged else ""
    if cause is None and isinstance(error, ValueError):
        return f"{url}: the Hub refused: {' '.join(str(error).split())}"
    if cause is None:
        what = "the connection to the Hub broke" if isinstance(_root(error), HTTPError) else "the upload failed"
        return f"{url}: {what} ({brief(error)}); check the network and push again"
    status, said = cause.response.status_code, " ".join((cause.server_message or "").split())
    said = f" (the Hub says: {said})" if said else ""
    owner = url.rsplit("/", 2)[1]
    if status == 401:
        mend = "log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"
        return f"{url}: the Hub does not know this token{said}: {mend}"
    if status == 402:
        free = f"a free account, 30 days old and with a verified e-mail, may hold two Spaces on {HARDWARE}"
        mend = f"take --hardware {HARDWARE}" if hardware != HARDWARE else "delete one of those that you have"
        return f"{url}: hardware {hardware} needs a paid account{said}: {free}: {mend}, or see huggingface.co/pro"
    if status == 403:
        mend = "take one with write access from https://huggingface.co/settings/tokens, or push to a Space of your own"
        return f"{url}: this token may not write to {owner}{said}: {mend}"
    if status == 404:
        return f"{url}: there is no such thing on the Hub, or none that this token may see{said}: check the name"
    if status == 412:
        return f"{url}: somebody else pushed at the same time; {intact}look what it was, and push again"
    if status == 429:
        wait = cause.response.headers.get("Retry-After")
        when = f"in {wait} seconds" if wait else "in some minutes"
        return f"{url}: the Hub wants fewer requests; {intact}push again {when}"
    if status >= 500:
        mend = "push again later, https://status.huggingface.co tells more"
        return f"{url}: the Hub has trouble ({status}); {intact}{mend}"
    return f"{url}: the Hub refused ({status}){said}"


def _http_cause(error: BaseException | None) -> HfHubHTTPError | None:
    """The refusal of the Hub at the root of an error: the client wraps those of uploads into others."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__ or error.__context__
    return error


def worth_waiting(error: BaseException, attempt: int) -> float | None:
    """Seconds until a commit is sent again, or None where that is of no use."""
    wait = passes_in(error, FIRST_WAIT * 2 ** (attempt - 1))
    return None if attempt == TRIES or wait is None or wait > PATIENCE else wait


def passes_in(error: BaseException, usual: float) -> float | None:
    """Seconds until what failed may work, `usual` unless the Hub asks for others; None for what does not pass."""
    cause = _http_cause(error)
    if cause is None:
        return None if isinstance(error, ValueError) else usual
    status, asked = cause.response.status_code, cause.response.headers.get("Retry-After", "")
    if status != 429 and status < 500:
        return None
    return float(asked) if asked.isdigit() else usual


def _root(error: BaseException) -> BaseException:
    """What an error came of. Of its causes, those that the HTTP library took over from the system say less."""
    while error.__cause__ is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def brief(error: BaseException) -> str:
    """The first line of what the root of an error says."""
    root = _root(error)
    return (str(root).strip().splitlines() or [type(root).__name__])[0]
