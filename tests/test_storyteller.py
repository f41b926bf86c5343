"""The storyteller: stories that a seed reproduces, prompts of every kind, scores, and finding models in a folder."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIC, parts, tell
from hypothesis import given
from hypothesis import strategies as st

import model
from model import artifacts
from model.sampling import Sampling, pick
from model.storyteller import Storyteller, find, prepare, untrained, windows
from model.vocab import END, Vocab

CONTEXT = 32
SEEDED = Sampling(length=100, temperature=1.0, seed=7, stop_at_end=False)


class Scripted:
    """A decoder that always predicts the next symbol of a script, with certainty."""

    context = 8

    def __init__(self, vocab: Vocab, script: Sequence[int]) -> None:
        self.vocab, self.script, self.fed = vocab, iter(script), []

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        self.fed.append(list(ids))
        logits = np.zeros(len(self.vocab), np.float32)
        logits[next(self.script)] = 50
        return logits


def plain_story(storyteller: Storyteller, prompt: str, sampling: Sampling) -> str:
    """Tells the same story without a cache or decoder: it reads the whole window again for each character."""
    generator, vocab = np.random.default_rng(sampling.seed), storyteller.vocab
    window, story = [vocab.start, *vocab.encode(prompt)][-CONTEXT:], ""
    for _ in range(sampling.length):
        with torch.no_grad():
            logits = storyteller.network(torch.tensor([window]))[0, -1].numpy()
        if vocab.end is not None:
            logits[vocab.end] = -np.inf
        chosen = pick(logits, sampling, generator)
        story += vocab.itos[chosen]
        window = [*(window[-CONTEXT // 2 :] if len(window) == CONTEXT else window), chosen]
    return story


@pytest.mark.parametrize("prompt", ["", "Once", "x" * 31, "y" * 32, "z" * 100])
def test_a_story_through_several_contexts_is_the_one_told_without_a_cache(storyteller, prompt: str) -> None:
    assert "".join(storyteller.tell(prompt, SEEDED)) == plain_story(storyteller, prompt, SEEDED)


def test_the_same_seed_tells_the_same_story(storyteller: Storyteller) -> None:
    first, again = ("".join(storyteller.tell("Once", SEEDED)) for _ in range(2))
    assert first == again
    assert first != "".join(storyteller.tell("Once", Sampling(length=100, temperature=1.0, seed=8)))
    assert first != "".join(storyteller.tell("Twice", SEEDED))
    unseeded = {"".join(storyteller.tell("Once", Sampling(length=50, temperature=2.0))) for _ in range(3)}
    assert len(unseeded) == 3


def test_greedy_ignores_the_seed(storyteller: Storyteller) -> None:
    stories = {
        "".join(storyteller.tell("Once", Sampling(length=40, temperature=0, seed=seed))) for seed in (1, 2, None)
    }
    assert len(stories) == 1


def test_two_stories_told_in_turns_do_not_mix(storyteller: Storyteller) -> None:
    alone = "".join(storyteller.tell("Once", SEEDED))
    turns = zip(storyteller.tell("Once", SEEDED), storyteller.tell("Tom", SEEDED), strict=True)
    assert "".join(one for one, _ in turns) == alone


def test_length_counts_the_characters(storyteller: Storyteller) -> None:
    for length in (1, 2, 40):
        pieces = list(storyteller.tell("Once", Sampling(length=length, stop_at_end=False, seed=1)))
        assert [len(piece) for piece in pieces] == [1] * length


def test_a_story_ends_at_its_end_mark() -> None:
    vocab = Vocab.ascii()
    decoder = Scripted(vocab, [*vocab.encode("The end."), vocab.end])
    assert "".join(tell(decoder, vocab, "Hi", Sampling(seed=1))) == "The end."
    assert decoder.fed[0] == [vocab.end, *vocab.encode("Hi")]
    assert decoder.fed[1:] == [[id] for id in vocab.encode("The end.")]


def test_a_story_that_must_not_end_continues() -> None:
    vocab = Vocab.ascii()
    for temperature in (0, 0.8):
        sampling = Sampling(length=5, seed=1, stop_at_end=False, temperature=temperature)
        story = "".join(tell(Scripted(vocab, itertools.repeat(vocab.end)), vocab, "", sampling))
        assert len(story) == 5
        assert END not in story


def test_closing_stops_at_once() -> None:
    vocab = Vocab.ascii()
    decoder = Scripted(vocab, itertools.repeat(5))
    story = tell(decoder, vocab, "", Sampling(seed=1))
    assert next(story) + next(story) == "$$"
    story.close()
    assert len(decoder.fed) == 2
    assert list(story) == []


def test_a_prompt_and_its_lost_characters() -> None:
    vocab = Vocab.ascii()
    assert prepare("", vocab, 8) == ("", [vocab.end], [], 0)
    assert prepare("abc", vocab, 8) == ("abc", [vocab.end, *vocab.encode("abc")], [], 0)
    assert prepare("a☃b☃π", vocab, 8) == ("ab", [vocab.end, *vocab.encode("ab")], ["☃", "π"], 0)
    # the end mark is cut first: the ids then no longer are the beginning of a story
    assert prepare("abcdefgh", vocab, 8) == ("abcdefgh", vocab.encode("abcdefgh"), [], 0)
    assert prepare("abcdefghij", vocab, 8) == ("abcdefghij", vocab.encode("cdefghij"), [], 2)


def test_without_an_end_mark_a_blank_opens_the_story(tiny_classic: Path) -> None:
    storyteller = model.load(tiny_classic)
    assert storyteller.vocab.end is None
    assert storyteller.prepare("Tom").ids == storyteller.vocab.encode(" Tom")
    assert storyteller.prepare("a\n5").text == "a "


@given(st.integers(0, 300), st.integers(1, 40))
def test_windows_score_each_prediction_once_and_with_enough_before_it(n: int, context: int) -> None:
    scored = []
    for start, stop, first in windows(n, context):
        assert 0 <= start <= first < stop <= n
        assert stop - start <= context
        assert first == 0 or first + 1 - start >= context / 2
        scored += range(first, stop)
    assert scored == list(range(n))


def test_windows_advance_by_half_a_context() -> None:
    assert list(windows(20, 8)) == [(0, 8, 0), (4, 12, 8), (8, 16, 12), (12, 20, 16)]
    assert list(windows(9, 8)) == [(0, 8, 0), (4, 9, 8)]
    assert list(windows(0, 8)) == []


def test_scores_are_the_nats_of_each_character(storyteller: Storyteller) -> None:
    text, vocab = "Tom had a red ball.", storyteller.vocab
    ids = [vocab.start, *vocab.encode(text)]
    with torch.no_grad():
        chances = storyteller.network(torch.tensor([ids]))[0].softmax(-1).numpy()
    records = storyteller.score(text, k=3)
    assert "".join(record.character for record in records) == text
    for following, row, (_, nats, alternatives) in zip(ids[1:], chances, records, strict=False):
        assert nats == pytest.approx(-math.log(row[following]), abs=1e-4)
        likeliest = np.argsort(-row, kind="stable")[:3]
        assert [vocab.stoi[symbol] for symbol, _ in alternatives] == likeliest.tolist()
        np.testing.assert_allclose([chance for _, chance in alternatives], row[likeliest], atol=1e-5)


def test_a_long_text_is_scored_whole(storyteller: Storyteller) -> None:
    text = "Tom had a red ball. " * 6
    records = storyteller.score(text)
    assert "".join(record.character for record in records) == text
    ids = [storyteller.vocab.start, *storyteller.vocab.encode(text)]
    with torch.no_grad():  # in the second window, the predictions from the 33rd symbol on count
        row = storyteller.network(torch.tensor([ids[16:48]]))[0, 16].log_softmax(-1)
    assert records[32].nats == pytest.approx(-row[ids[33]].item(), abs=1e-4)
    assert all(len(record.alternatives) == 10 for record in records)


def test_scores_of_short_texts(storyteller: Storyteller) -> None:
    assert storyteller.score("") == []
    assert [record.character for record in storyteller.score("a☃b")] == ["a", "b"]


def test_next_characters_under_the_given_sampling(storyteller: Storyteller) -> None:
    everything = storyteller.next_characters("Once upon a ti", k=1000)
    assert len(everything) == len(storyteller.vocab)
    assert sum(chance for _, chance in everything) == pytest.approx(1)
    chances = [chance for _, chance in everything]
    assert chances == sorted(chances, reverse=True)
    assert storyteller.next_characters("Once upon a ti") == everything[:10]
    (first, one), (second, other) = storyteller.next_characters("Once upon a ti", sampling=Sampling(top_k=2))
    assert (first, second) == (everything[0][0], everything[1][0])
    assert one + other == pytest.approx(1)
    assert storyteller.next_characters("Once", sampling=Sampling(temperature=0))[0][1] == 1
    going_on = storyteller.next_characters("Once", k=1000, sampling=Sampling(stop_at_end=False))
    assert END not in dict(going_on)


def test_loading_does_not_change_the_random_numbers_of_torch(tiny_artifact: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    network = model.load(tiny_artifact).network
    assert torch.rand(1) == expected
    assert not network.training
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in network.parameters())


def test_half_precision_weights_run_in_float32(tmp_path: Path) -> None:
    given_parts = parts(CLASSIC)
    given_parts["weights"] = {name: array.astype(np.float16) for name, array in given_parts["weights"].items()}
    artifacts.save(tmp_path / "half", **given_parts)
    storyteller = model.load(str(tmp_path / "half"))
    assert storyteller.name == "half"
    assert storyteller.network.head.weight.dtype == torch.float32
    np.testing.assert_array_equal(storyteller.network.head.weight.numpy(), given_parts["weights"]["head.weight"])


def test_find_sorts_the_valid_ones_and_names_the_others(tmp_path: Path, tiny_artifact: Path) -> None:
    assert find(tmp_path / "nothing") == ([], {})
    artifacts.save(tmp_path / "worse", **parts(nats=2.0))
    artifacts.save(tmp_path / "better", **parts(nats=1.0))
    shutil.copytree(tiny_artifact, tmp_path / "broken")
    (tmp_path / "broken" / "stoi.json").unlink()
    shutil.copytree(tiny_artifact, tmp_path / ".hidden.new")
    (tmp_path / "file").touch()
    storytellers, skipped = find(tmp_path)
    assert [storyteller.name for storyteller in storytellers] == ["better", "worse"]
    assert skipped == {"broken": f"{tmp_path}/broken/stoi.json is missing; {artifacts.FIX}"}


def evaluated(nats: float, text: str, sha256: str = "") -> dict[str, object]:
    made = parts(nats=nats)
    made["metrics"] |= {"evaluation": {"data": text, "sha256": sha256}}
    return made


def test_losses_on_different_texts_are_not_compared(tmp_path: Path) -> None:
    """A toy on easy text has a lower loss than a good model, and does not come before it."""
    for name, nats, text, sha256 in (
        ("toy", 0.4, "recipes.txt", "1"),
        ("good", 0.5, "valid.txt", "2"),
        ("fair", 0.7, "valid.txt", "2"),
        ("namesake", 0.1, "valid.txt", "3"),  # another text of the same name
    ):
        artifacts.save(tmp_path / name, **evaluated(nats, text, sha256))
    artifacts.save(tmp_path / "odd", **parts(nats=0.2))
    for number in range(3):  # trials come last, however many share a text
        made = evaluated(0.1, "toy.txt", "4")
        made["metrics"] |= {"preset": "debug"} if number else {"nats_per_character": 4.5}
        artifacts.save(tmp_path / f"trial{number}", **made)
    trials = ["trial1", "trial2", "trial0"]
    assert [it.name for it in find(tmp_path)[0]] == ["good", "fair", "odd", "toy", "namesake", *trials]
    assert model.load(tmp_path / "good").evaluated_on == ("valid.txt", "2")
    assert model.load(tmp_path / "odd").evaluated_on == ("", "")

    assert model.write_default(tmp_path, str(tmp_path / "toy")) == "toy"
    assert (tmp_path / "default").read_text() == "toy\n"
    assert [it.name for it in find(tmp_path)[0]] == ["toy", "good", "fair", "odd", "namesake", *trials]
    shutil.rmtree(tmp_path / "toy")
    storytellers, skipped = find(tmp_path)
    assert [it.name for it in storytellers] == ["good", "fair", "odd", "namesake", *trials]
    choose = "choose one with: .venv/bin/python -m model --default NAME"
    assert skipped == {"default": f"{tmp_path}/default names 'toy', but there is no such model; {choose}"}
    for name in ("toy", "../toy", ".hidden", "good/.."):
        with pytest.raises(model.ArtifactError):
            model.write_default(tmp_path, name)
    assert (tmp_path / "default").read_text() == "toy\n"
    (tmp_path / "default").unlink()
    (tmp_path / "default").mkdir()  # a model may have been trained from a text of that name
    with pytest.raises(model.ArtifactError, match=r"default cannot be written \(.*\); make its folder writable"):
        model.write_default(tmp_path, "good")


def test_a_model_that_guesses_is_untrained() -> None:
    assert untrained({"nats_per_character": 4.4}, 97) and not untrained({"nats_per_character": 4.3}, 97)  # ln 97 = 4.57


def test_a_link_has_its_own_name(tmp_path: Path, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tiny_artifact)
    assert [storyteller.name for storyteller in find(tmp_path)[0]] == ["one", "two"]
    monkeypatch.chdir(tmp_path / "one")
    assert model.load(".").name == tiny_artifact.name
