"""Judging stories: each figure is computed for stories with a known result."""
# ruff: noqa: RUF001 (Chinese punctuation looks like ASCII)

from __future__ import annotations

import random
from pathlib import Path

import pytest

import model
from model.sampling import Sampling
from train.judge import LONGEST, Judge, Told, distinct, repeated, share, tell_many

TRAINING = [
    'Once there was a girl named Mia. She had a kite. "Fly!" said Mia.\nThe kite flew over the hill and she was glad.',
    "Tom saw a big red fish in the pond. The fish swam to Tom. They were friends, and the pond was full of light.",
]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(TRAINING)


def told(*texts: str, ended: bool = True) -> list[Told]:
    return [Told(text, ended) for text in texts]


def longest_common(a: str, b: str) -> int:
    """Computed directly from the definition, in cubic time."""
    return max(j - i for i in range(len(a)) for j in range(i, len(a) + 1) if a[i:j] in b)


def test_copied_is_the_longest_common_run(judge: Judge) -> None:
    text = "\n\n".join(TRAINING)
    generator = random.Random(1)
    for _ in range(30):
        pieces = [text[i : i + generator.randrange(5, 60)] for i in generator.choices(range(len(text) - 60), k=4)]
        story = "".join(pieces)
        expected = longest_common(story, text)
        assert judge.copied(story) == (expected if expected >= 16 else 0)


@pytest.mark.parametrize("text", ["", "short", "nothing here is in it at all", "She had a kite."])
def test_short_common_runs_are_not_copies(judge: Judge, text: str) -> None:
    assert judge.copied(text) == 0


def test_a_training_story_counts_as_copied_completely(judge: Judge) -> None:
    assert judge.copied(TRAINING[0]) == len(TRAINING[0])


def test_names_return_or_not(judge: Judge) -> None:
    assert judge.names >= {"Mia", "Tom"}
    assert judge.name_returns("Mia had a kite. It flew and flew and flew far away. At last Mia was glad.") is True
    assert judge.name_returns("Mia had a kite. It flew and flew and flew far away. At last Tom was glad.") is False
    assert judge.name_returns("A girl had a kite. Mia was glad.") is None


def test_figures_of_known_stories(judge: Judge) -> None:
    stories = [*told('Tom had a kite.\n"Fly!" said Tom.\n"Oh no.'), *told("Tom had a zorp.", ended=False)]
    figures = judge.figures(stories)
    assert (figures["stories"], figures["ended"], figures["closed_quotes"]) == (2, 0.5, 0.5)
    assert figures["known_words"] == pytest.approx(10 / 13, abs=1e-4)  # unknown: oh, no, zorp
    assert figures["name_returns"] == 0.5


def test_figures_in_other_scripts() -> None:
    """A script without case has no names; Chinese words are pairs; a copy is as long as its characters."""
    hindi = "एक छोटी चिड़िया पेड़ पर रहती थी। “कौन है?” उसने कहा।"
    chinese = "从前，森林里住着一只小狐狸。\n“你好！”小狐狸高兴地说。"
    german = "Käthe fand einen süßen Apfel. „Schau!“, rief Käthe."
    judge = Judge([hindi, chinese, german])
    figures = judge.figures(told("एक बड़ी चिड़िया", "“你好！”小狐狼说。\n“你", german))
    # unknown: बड़ी, 狐狼, 狼说, and 你 alone
    assert figures["known_words"] == pytest.approx(12 / 16, abs=1e-4)
    assert (figures["closed_quotes"], figures["copied_worst"], figures["name_returns"]) == (0.6667, len(german), True)
    assert judge.names == {"Käthe", "Apfel", "Schau"}
    assert judge.figures(told(hindi, chinese))["name_returns"] is None


def test_shares_of_nothing_are_none() -> None:
    assert share([]) is None and distinct([], 1) is None and repeated(["one two three"]) is None
    assert distinct(["a", "b", "a", "b"], 2) == pytest.approx(2 / 3, abs=1e-4)
    assert distinct(["a"] * 20_000, 1) == 0.0001


def test_repeated_sequences_of_words_are_counted() -> None:
    once, twice = "Tom ran to the hill.", "Tom ran to the hill. Tom ran to the pond."
    assert repeated([once]) == repeated([once, once]) == 0
    assert repeated([twice]) == pytest.approx(1 / 7, abs=1e-4)  # of seven sequences, one is repeated


def test_told_stories_are_seeded_and_differ(tiny_artifact: Path) -> None:
    storyteller = model.load(tiny_artifact)
    once, again = (tell_many(storyteller, 3, Sampling(temperature=1.0)) for _ in range(2))
    assert once == again and len({story.text for story in once}) == 3
    assert all(story.ended == (len(story.text) < LONGEST) for story in once)
