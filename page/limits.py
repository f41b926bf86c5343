"""The limits on what a visitor may ask for, and refusals that name the value, the limit and the field."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator

import gradio as gr

from model import Sampling
from model.sampling import SETTINGS, short_repr
from page.words import ENGLISH

MAX_LENGTH = 4_000  # characters that Tell or Continue adds at most
MAX_TEXT = 4_000  # characters of a prompt, or of a text to score
MAX_SEED = 2**53 - 1  # the largest number that a browser does not round: JavaScript's Number.MAX_SAFE_INTEGER
MAX_STORY = 40_000  # characters of a story to continue


class Refusal(gr.Error):
    """One line for the visitor, which the log leaves out. `text` is that line, and `field` the input that it is about.

    Clients such as Gradio's own page show an error as HTML, so the message of the exception is the escaped line.
    """

    def __init__(self, text: str, field: str) -> None:
        super().__init__(html.escape(text, quote=False), print_exception=False)
        self.text, self.field = text, field


def check_text(name: str, text: object, limit: int = MAX_TEXT, too_long: str = "refused_long") -> str:
    """Returns the text. Raises Refusal if it is not a string or too long."""
    if not isinstance(text, str):
        raise Refusal(f"{name} must be text, not {type(text).__name__}", name)
    if len(text) > limit:
        raise Refusal(ENGLISH[too_long].format(name=name, count=f"{len(text):,}", limit=f"{limit:,}"), name)
    return text


def check_whole(name: str, value: object, least: int, most: int) -> int:
    """Returns the value. Raises Refusal if it is not a whole number from `least` to `most`."""
    value = whole(value)
    if type(value) is not int or not least <= value <= most:
        # The page sends a number that a browser would round as text, so that the refusal names what was typed.
        given = value if isinstance(value, str) and re.fullmatch("-?[0-9]{16,40}", value) else short_repr(value)
        limits = dict(least=least, most=f"{most:,}")
        raise Refusal(ENGLISH["refused_whole"].format(name=name, value=given, **limits), name)
    return value


def check_sampling(*values: object) -> Sampling:
    """Checks settings in the order of `SETTINGS`, which may be any JSON values. Draws a seed for -1. Raises Refusal."""
    given = {name: whole(value) for name, value in zip(SETTINGS, values, strict=False)}
    check_whole("length", given["length"], 1, MAX_LENGTH)
    if given["seed"] is not None and check_whole("seed", given["seed"], -1, MAX_SEED) == -1:
        given["seed"] = None
    try:
        return Sampling(**given).seeded()
    except ValueError as error:
        raise Refusal(str(error), str(error).split(" ")[0]) from None


def whole(value: object) -> object:
    """Turns 600.0 into 600, because a browser has only one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def in_place(answer: Callable) -> Callable[..., Iterator[tuple]]:
    """Makes `answer` yield (value, None), or (no change, the refusal's text and field) where it raises a refusal.

    The page can then show the refusal where the visitor is, mark the field, and keep the last answer.
    """

    def answered(request: gr.Request, *inputs: object) -> Iterator[tuple]:
        try:
            told = answer(request, *inputs)
            for value in told if isinstance(told, Iterator) else [told]:
                yield value, None
        except Refusal as refusal:
            yield gr.skip(), {"text": refusal.text, "field": refusal.field}

    return answered
