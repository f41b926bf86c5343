"""Streams stories as they grow, of one model or of all together, no faster than a browser can show them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import chain
from typing import TypedDict, TypeVar

from model import Sampling, Storyteller
from model.sampling import SETTINGS
from model.teller import story_pieces
from model.vocab import visible
from page.scheduler import Scheduler, grouped
from page.turns import Turn
from page.words import ENGLISH


class Telling(TypedDict):
    """A story so far, with its figures. The page shows it, and keeps it in its history."""

    prompt: str  # what the visitor wrote, as the page shows it
    text: str  # what the model wrote
    language: str  # of the text: an HTML `lang`
    settings: dict[str, object]  # model, prompt, length, ..., seed: these tell the same story again
    written: int  # characters that the model wrote in this telling
    speed: float  # characters per second
    ahead: int  # calls that come before this one; 0 once it is told
    running: bool
    stopped: bool  # the visitor stopped it
    ended: bool  # the model closed the story by itself
    dropped: list[str]  # characters of the prompt that the model does not know
    kept: int | None  # how many characters the model read, where it could not read all; 0: it knows none of them


Told = TypeVar("Told", Telling, list[Telling])


def stream(
    storyteller: Storyteller,
    prompt: str,
    sampling: Sampling,
    *,
    scheduler: Scheduler | None = None,
    shown: str | None = None,
    before: str = "",
) -> Iterator[Telling]:
    """Yields the story before it begins, as it grows, at most every `PIECE_SECONDS`, and once more when it is over.

    The `scheduler` tells it together with other readers' stories; without one, this thread tells it. The story begins
    with `shown` (None: the characters of the prompt that the model knows) and `before`, which a model wrote earlier.
    """
    teller = storyteller.teller(prompt, sampling)
    read = teller.prompt
    telling = Telling(
        prompt=read.text if shown is None else shown,
        text=before,
        language=language(storyteller),
        settings=dict(model=storyteller.name, prompt=prompt, **{name: getattr(sampling, name) for name in SETTINGS}),
        written=0,
        speed=0.0,
        ahead=0,
        running=True,
        stopped=False,
        ended=False,
        dropped=[visible(each) for each in read.dropped],
        kept=read.kept,
    )
    yield telling.copy()
    started = time.monotonic()
    with ExitStack() as stack:
        if scheduler is None:
            pieces = grouped(stack.enter_context(closing(story_pieces(teller, storyteller.decoder_of(teller)))))
        else:
            pieces = stack.enter_context(closing(scheduler.tell(storyteller, teller)))
        for piece in pieces:
            telling["text"] += piece
            telling["written"] += len(piece)
            telling["speed"] = telling["written"] / max(time.monotonic() - started, 1e-3)
            yield telling.copy()
    yield telling | Telling(running=False, ended=teller.ended)


def stream_together(storytellers: Iterable[Storyteller], prompt: str, sampling: Sampling) -> Iterator[list[Telling]]:
    """Yields the stories of all models, which take turns. The speed of a story counts only its own turns."""
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(stream(each, prompt, sampling))) for each in storytellers]
        tellings = [next(each) for each in streams]
        yield list(tellings)
        seconds = [0.0] * len(streams)
        while any(telling["running"] for telling in tellings):
            for i, each in enumerate(streams):
                if tellings[i]["running"]:
                    started = time.monotonic()
                    tellings[i] = next(each)
                    seconds[i] += time.monotonic() - started
                    tellings[i]["speed"] = tellings[i]["written"] / max(seconds[i], 1e-3)
            yield list(tellings)


def in_turn(place: AbstractContextManager[Turn], told: Iterator[Told]) -> Iterator[Told]:
    """Yields what `told` yields, once it is its turn, and before that how many calls come first. Ends it at a stop."""
    with place as turn, closing(told):
        first = next(told)
        while ahead := turn.wait():
            yield _marked(first, ahead=ahead)
        for latest in chain([first], told):
            if turn.stopped:
                yield _marked(latest, running=False, stopped=True)
                return
            yield latest


def _marked(told: Told, **changes: object) -> Told:
    """The same, changed in every story that is not over."""
    if isinstance(told, list):
        return [_marked(telling, **changes) for telling in told]
    return told | changes if told["running"] else told


def language(storyteller: Storyteller) -> str:
    """The language of a model's stories, as HTML's `lang` has it: "" where it is not known."""
    known = storyteller.metrics.get("language", "en" if storyteller.vocab.is_ascii else "")
    return known if isinstance(known, str) else ""


def figures(telling: Telling) -> dict[str, object]:
    """What the endpoint says about a story."""
    model, seed = (telling["settings"][name] for name in ("model", "seed"))
    said = {name: telling[name] for name in ("ahead", "running", "stopped", "ended", "dropped", "kept")}
    return dict(model=model, seed=seed, characters=telling["written"], per_second=round(telling["speed"])) | said


def figures_line(telling: Telling) -> str:
    """The same as lines of English text."""
    seed = telling["settings"]["seed"]
    lines = [ENGLISH["figures"].format(written=f"{telling['written']:,}", speed=f"{telling['speed']:,.0f}", seed=seed)]
    if not telling["running"]:
        lines.append(ENGLISH["ended" if telling["ended"] else "limit"])
    if telling["dropped"]:
        key = "from_start" if telling["kept"] == 0 else "dropped"
        lines.append(ENGLISH[key].format(characters=" ".join(telling["dropped"])))
    if telling["kept"]:
        lines.append(ENGLISH["kept"].format(kept=f"{telling['kept']:,}"))
    return "\n".join(lines)
