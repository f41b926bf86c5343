"""The table of texts is complete in each language, and the page's files are small enough."""

from __future__ import annotations

import re

import pytest

from model import Sampling
from page.theme import HERE, SCRIPTS, STYLE
from page.words import ENGLISH, LANGUAGES, TABLE

SAMPLER = [f"refused_{name}" for name in ("temperature", "top_k", "top_p", "min_p")]  # these texts come from model/
CODE = "".join(path.read_text() for path in [HERE.parent / "app.py", *HERE.glob("*.py"), *SCRIPTS])


@pytest.mark.parametrize("key", TABLE)
def test_every_text_is_in_each_language_and_used(key):
    words = TABLE[key]
    assert tuple(words) == LANGUAGES and all(words.values())
    assert {frozenset(re.findall(r"\{\w+\}", text)) for text in words.values()} == {
        frozenset(re.findall(r"\{\w+\}", words["en"]))
    }
    assert f'"{key}"' in CODE or key in SAMPLER


@pytest.mark.parametrize("key", SAMPLER)
def test_what_the_sampler_refuses_is_in_the_table(key):
    name = key.removeprefix("refused_")
    with pytest.raises(ValueError) as error:
        Sampling(**{name: -1})
    assert str(error.value) == ENGLISH[key].format(name=name, value=-1)


def test_the_page_adds_less_than_100_kb():
    assert sum(path.stat().st_size for path in [*SCRIPTS, STYLE, HERE / "words.json"]) < 100_000
