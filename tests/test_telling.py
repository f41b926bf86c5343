"""Streaming stories: one story, a continued one, and several together."""

from __future__ import annotations

from itertools import pairwise

from model import Sampling
from page.telling import figures_line, stream, stream_together
from page.words import ENGLISH


def last(tellings):
    *_, telling = tellings
    return telling


def test_a_story_grows_to_what_the_model_tells(storyteller):
    sampling = Sampling(length=300, seed=3)
    told = "".join(storyteller.tell("Tom", sampling))
    tellings = list(stream(storyteller, "Tom", sampling))
    assert all(after["text"].startswith(before["text"]) for before, after in pairwise(tellings))
    assert [telling["running"] for telling in tellings] == [True] * (len(tellings) - 1) + [False]
    over = tellings[-1]
    assert (over["prompt"], over["text"], over["written"]) == ("Tom", told, len(told))
    assert over["ended"] == (len(told) < 300)
    settings = dict(model=storyteller.name, prompt="Tom", length=300, temperature=0.8, top_k=0, top_p=1.0, min_p=0.0)
    assert over["settings"] == settings | {"seed": 3, "drafts": 1, "beams": 1}
    assert figures_line(over).startswith(f"{len(told)} characters · ") and figures_line(over).splitlines()[0].endswith(
        "seed 3"
    )
    assert figures_line(over).splitlines()[1] == ENGLISH["ended" if over["ended"] else "limit"]
    assert ENGLISH["ended"] not in figures_line(tellings[0]) and ENGLISH["limit"] not in figures_line(tellings[0])


def test_drafts_come_by_sentences_and_are_announced_before_the_first(storyteller):
    sampling = Sampling(length=200, seed=3, drafts=3, beams=2)
    first, *tellings = stream(storyteller, "Tom", sampling)
    assert (first["prompt"], first["text"], first["running"]) == ("Tom", "", True)
    assert (first["settings"]["drafts"], first["settings"]["beams"]) == (3, 2)
    assert tellings[-1]["text"] == "".join(storyteller.tell("Tom", sampling))


def test_a_continued_story_keeps_its_beginning(storyteller):
    telling = last(stream(storyteller, "Tom ran.", Sampling(length=5, seed=1), shown="Tom", before=" ran."))
    assert telling["prompt"] == "Tom" and telling["text"].startswith(" ran.")
    assert len(telling["text"]) == len(" ran.") + telling["written"]


def test_each_tells_the_same_together_as_alone(storyteller):
    sampling = Sampling(length=200, seed=5)
    alone = "".join(storyteller.tell("Ann", sampling))
    tellings = last(stream_together([storyteller, storyteller], "Ann", sampling))
    assert [telling["text"] for telling in tellings] == [alone, alone]
    assert not any(telling["running"] for telling in tellings)


def test_dropped_and_unread_text_is_named(storyteller):
    telling = last(stream(storyteller, "☃\x07" + "a" * 40, Sampling(length=1, seed=1)))
    assert telling["dropped"] == ["☃", "U+0007"]
    assert telling["kept"] == storyteller.config.context == 32
    assert figures_line(last(stream(storyteller, "☃ 好,", Sampling(length=9, seed=1)))).endswith("Left out: ☃ 好 ,")
    drafts = last(stream(storyteller, "a" * 42, Sampling(length=1, seed=1, drafts=2)))
    assert drafts["kept"] == 17, "half of the context must be left for a sentence"
    assert "☃ U+0007" in figures_line(telling) and "the last 32 characters" in figures_line(telling)
