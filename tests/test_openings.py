"""Prompts made of a text: frequent openings of its stories, or of its sentences."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from languages import stories

from model.vocab import END, Vocab
from train.text.openings import PROMPTS, openings, prompts


def encoded(texts: list[str], end: str = END) -> tuple[np.ndarray, Vocab]:
    counts = Counter("".join([*texts, end * (end != END)]))
    vocab = Vocab.of_counts(counts) if end == END else Vocab([*counts])
    marks = [vocab.stoi[end]]
    return np.array(marks + [i for text in texts for i in vocab.encode(text) + marks], np.uint16), vocab


@pytest.mark.parametrize("language", ["german", "hindi", "chinese"])
def test_openings_are_shared_short_and_different(language: str) -> None:
    texts = stories(400, 3, language)
    found = openings(*encoded(texts))
    assert len(found) == 4 and len({each[:5] for each in found}) > 1
    for each in found:
        rests = [text[len(each) :] for text in texts if text.startswith(each)]
        whole = [rest for rest in rests if language == "chinese" or rest[0] in " ,."]
        assert len(whole) >= 4 and 5 <= len(each) <= 40, each


def test_an_opening_is_whole_words_on_one_line_and_not_the_beginning_of_another() -> None:
    shared = ["Es war ein Bär, der lief.", "Es war ein Bär und schlief.", "Der Wald\nEin Bär", "“Ja!” rief er."]
    found = ["Es war ein Bär und schlief.", "“Ja!” rief er.", "Der Wald", "Es war ein Bär, der lief."]
    assert openings(*encoded(shared * 2)) == found
    long = "Donaudampfschifffahrtsgesellschaftskapitän war er"
    assert openings(*encoded([long, "Ö" * 50, "क्षि " * 20, "从前" * 30])) == ["从前" * 20, ("क्षि " * 8).strip()]


@pytest.mark.parametrize("end", [END, " "])
def test_a_text_without_stories_gives_beginnings_of_its_sentences(end: str) -> None:
    text = "Ein Bär lief. Ein Bär sah ihn! Da kam Ö. " * 3 + "Da kam Ä."
    assert openings(*encoded([text], end)) == ["Ein Bär sah ihn!", "Da kam Ö.", "Ein Bär lief.", "Da kam Ä."]


def test_english_has_the_prompts_that_it_had() -> None:
    foreign, english = (
        SimpleNamespace(**dict(zip(("train", "vocab"), encoded([story] * 4), strict=True)))
        for story in ("Ein Bär lief", "Un orso")
    )
    assert prompts("a.txt", foreign, None) == {"prompts": ["Ein Bär lief"]}
    assert prompts("a.txt", english, "en") == {}
    assert prompts("a.txt", english, "it") == {"prompts": ["Un orso"]}
    assert prompts("shakespeare", english, "en") == {"prompts": list(PROMPTS["shakespeare"])}
