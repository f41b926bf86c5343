"""Which characters a text is encoded in: ASCII, its own, or those of a model and some more."""
# ruff: noqa: RUF001 (this file needs characters that look like others)

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import model
from model.vocab import END, Vocab, visible
from train.batches import Batches
from train.loop import train
from train.presets import PRESETS, TrainConfig
from train.run import grown
from train.text.alphabet import Alphabet, vocabulary
from train.text.corpus import Corpus, CorpusError, prepare, with_replay

TEXT = Alphabet("text")
DEBUG = replace(PRESETS["debug"], steps=3, eval_every=3, final_stories=2)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(text: str, **options: object) -> Corpus:
    Path("own.txt").write_text(text, encoding="utf-8")
    return prepare("own.txt", progress=False, **options)


def whole(made: Corpus) -> str:
    return made.vocab.decode(made.train) + made.vocab.decode(made.valid)


@settings(max_examples=60, deadline=None)
@given(
    st.text(
        st.characters(categories=["L", "M", "N", "P", "S", "Zs"]) | st.sampled_from("\n äé\u0301ड़ि한가"), min_size=2
    )
)
def test_every_text_comes_back_in_its_composed_form(text: str) -> None:
    assume(len(unicodedata.normalize("NFC", text)) > 1 and text.strip(" \n") and END not in text)
    with TemporaryDirectory() as folder:
        path = Path(folder, "own.txt")
        path.write_text(text, encoding="utf-8")
        made = prepare(path, vocab=TEXT, cache=folder, progress=False)
        assert whole(made) == unicodedata.normalize("NFC", text)
        counts = Counter(whole(made))
        assert made.vocab.itos == [*sorted(counts, key=lambda c: (-counts[c], c)), END]
        assert made.vocab.fit(text) == (whole(made), [])


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("a" * 990 + "ä" * 10, False),  # a hundredth is lost, and not more
        ("a" * 989 + "ä" * 11, True),
        ("a" * 989 + "ß" * 11, True),
        ("a" * 989 + "a\u0308" * 11, True),  # accents that stand behind their letter
        ("a" * 989 + "好" * 11, True),
        ("“Don’t – stop…”, ﬁne. " * 40, False),  # ASCII has counterparts of these
        ("donâ€™t " * 40, False),  # mojibake is no other language
        ("für " * 40, True),
    ],
)
def test_a_text_of_which_ascii_loses_more_than_a_hundredth_gets_its_own_characters(
    here: Path, text: str, own: bool
) -> None:
    made = prepared(text)
    assert (made.vocab != Vocab.ascii()) == own
    assert prepared(text, vocab=Alphabet("ascii")).vocab == Vocab.ascii()
    if own:
        assert whole(made) == unicodedata.normalize("NFC", text)


def test_rare_characters_are_dropped_and_counted(here: Path) -> None:
    stories = ["für dich ☃", "für mich ☃", "für uns 😀", "für euch"]
    made = prepared(f"\n{END}\n".join(stories), vocab=Alphabet("text", min_count=2))
    assert made.vocab.decode(made.train) == "für ich ☃für ich ☃für u"
    assert made.report["dropped_characters"] == dict.fromkeys("demns😀", 1)
    with pytest.raises(CorpusError, match=r"^own\.txt: no character occurs 99 times: give a lower --min-count$"):
        prepared("für dich und für mich", vocab=Alphabet("text", min_count=99))
    mostly = "a" * 4 + "ñöüÄÖÜßéèà"
    with pytest.raises(CorpusError) as error:
        prepared(mostly, vocab=Alphabet("text", min_count=4))
    assert str(error.value) == "own.txt: 71% of the characters are dropped (Latin 10); give a lower --min-count"


def test_a_vocabulary_that_is_too_large_is_refused_with_the_mend(here: Path) -> None:
    twice = "".join(map(chr, range(0x4E00, 0x4E00 + 6_000)))
    once = "".join(map(chr, range(0xAC00, 0xAC00 + 3_000)))
    with pytest.raises(CorpusError) as error:
        prepared(twice * 2 + once)
    assert str(error.value) == (
        "own.txt has 9,000 different characters, and a vocabulary holds at most 8,191: --min-count 2 keeps the 6,000 "
        "that occur at least 2 times"
    )
    with pytest.raises(CorpusError, match=r"at most 8,191: replace some of them in the text$"):
        prepared(twice + once)
    made = prepared(twice * 2 + once, vocab=Alphabet("text", min_count=2))
    assert whole(made) == twice * 2 and len(made.vocab) == 6_001
    with pytest.raises(CorpusError) as error:
        vocabulary([twice * 2 + once], Alphabet("text", grown=Vocab.ascii()), "own.txt")
    assert str(error.value).startswith(
        "own.txt has 9,000 different characters that the model lacks, and a vocabulary holds at most 8,095 more: "
    )


def test_more_than_256_symbols_take_two_bytes_each(here: Path) -> None:
    for size, bytes_each in ((255, 1), (256, 2)):
        text = "".join(map(chr, range(0x4E00, 0x4E00 + size))) * 3
        made = prepared(text)
        assert len(made.vocab) == size + 1 and made.train.itemsize == made.valid.itemsize == bytes_each
        inputs, targets = Batches(made.train, context=16, batch_size=64, seed=1).batch(0)
        assert torch.equal(inputs[:, 1:], targets[:, :-1]) and inputs.dtype == torch.int64
        read = {made.vocab.decode(row) for row in inputs.tolist()}
        assert all(row in text for row in read) and len(read) > 32
        replayed = Batches(made.train, context=16, batch_size=64, seed=1, replay=made.valid[::-1], replay_share=0.5)
        assert replayed.batch(0)[0].max() > 200


def test_what_is_no_character_is_dropped_counted_and_named(here: Path) -> None:
    story = "Жили\x00-были \u202eдед\u202c\tи баба.\u2028Ё\u0301 \ud83d "
    stories = [{"text": story + str(i)} for i in range(3)]
    Path("own.jsonl").write_text("\n".join(map(json.dumps, stories)))
    made = prepare("own.jsonl", progress=False)
    assert made.vocab.decode(made.train) == "Жили-были дед и баба.\nЁ\u0301 0" + "Жили-были дед и баба.\nЁ\u0301 1"
    dropped = {"\x00": 3, "\u202c": 3, "\u202e": 3, "\ud83d": 3}
    assert made.report["dropped_characters"] == dropped and made.report["read"]["train"]["tabs"] == 3
    assert list(map(visible, dropped)) == ["U+0000", "U+202C", "U+202E", "U+D83D"]
    assert (visible("\u0301"), visible("ि"), visible(" "), visible("\u00a0")) == ("◌\u0301", "◌ि", "U+0020", "U+00A0")
    text, lost = made.vocab.fit("дед\x00 и\ud83d ё\u0301ж\u202e")
    assert (text, lost) == ("дед и \u0301", ["\x00", "\ud83d", "\u202e", "ё", "ж"])


def test_a_vocabulary_is_of_the_stories_that_are_read(here: Path) -> None:
    records = ["", "\x00 ", *(f"Дом {c}" for c in "абвгд")]
    Path("own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in records))
    made = prepare("own.jsonl", vocab=TEXT, stories=3, progress=False)
    assert whole(made) == "Дом аДом бДом в" and made.report["dropped_characters"] == {"\x00": 1}


def test_stories_are_compared_by_all_their_letters(here: Path) -> None:
    """Also by the most frequent symbol, and alike with one byte a symbol and with two."""
    for more in ("", "".join(map(chr, range(0x4E00, 0x4E00 + 300)))):
        others = "STRASE οδος「！」。"
        stories = ["大人", "大", "人人大", "人", "Straße", "ΟΔΟΣ", "中", "人人人" + more, others]
        Path("own.txt").write_text(f"\n{END}\n".join(stories))
        Path("valid.txt").write_text(f"\n{END}\n".join(["「大！」", "人。", "STRASSE", "οδος"]))
        made = prepare("own.txt", valid="valid.txt", vocab=TEXT, progress=False)
        assert made.vocab.decode(made.train) == "大人人人大中人人人" + more + others


def test_texts_do_not_compose_with_each_other(here: Path) -> None:
    texts = ["e", "\u0301abc", "\u1100", "\u1161b"] * 3
    Path("own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    made = prepare("own.jsonl", vocab=TEXT, progress=False)
    assert made.report["dropped_characters"] == {} and set(made.vocab.itos) == {*"eabc\u0301\u1100\u1161", END}


def test_a_text_without_characters_is_refused(here: Path) -> None:
    controls = "own.jsonl: 100% of the characters are dropped (symbols 4); no model can learn them: give another text"
    for text, message in (("", "own.jsonl holds no text"), ("\x00\u202e", controls)):
        Path("own.jsonl").write_text("\n".join([json.dumps({"text": text})] * 2))
        with pytest.raises(CorpusError) as error:
            prepare("own.jsonl", vocab=TEXT, progress=False)
        assert str(error.value) == message


def test_a_grown_vocabulary_keeps_its_symbols_and_begins_new_ones_at_the_mean(here: Path) -> None:
    base = Vocab.of_counts(Counter("für dich"))
    made = vocabulary(["ü wie süß, ß", "ff"], Alphabet("text", 2, grown=base), "own.txt")
    assert made.itos == [*base.itos, "ß"] and made.end == base.end
    weights = {"embedding.weight": torch.randn(9, 4), "head.bias": torch.randn(9), "norm.weight": torch.randn(4)}
    more = grown(weights, 11)
    for name in ("embedding.weight", "head.bias"):
        assert torch.equal(more[name][:9], weights[name])
        assert torch.allclose(more[name][9:], weights[name].mean(0).expand(2, *weights[name].shape[1:]))
    assert torch.equal(more["norm.weight"], weights["norm.weight"])
    assert all(torch.equal(grown(weights, 9)[name], weights[name]) for name in weights)


MIN_COUNT = "min_count (2) is for the characters of a text: give --vocab text, or --init with --grow-vocab"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab": "utf8"}, "vocab ('utf8') must be one of auto, text, ascii"),
        ({"min_count": 0}, "min_count (0) must be at least 1"),
        ({"vocab": "ascii", "min_count": 2}, MIN_COUNT),
        ({"cleaning": "classic", "min_count": 2}, MIN_COUNT),
        ({"init": "artifacts/pocket", "min_count": 2}, MIN_COUNT),
        ({"grow_vocab": True}, "--grow-vocab needs --init, the model to add characters to"),
        (
            {"init": "artifacts/pocket", "vocab": "text"},
            "vocab (text) cannot be set: --init artifacts/pocket determines it; --grow-vocab adds to it",
        ),
        (
            {"vocab": "text", "cleaning": "classic"},
            "cleaning (classic) keeps ASCII only: give --cleaning story with --vocab text",
        ),
        (
            {"init": "artifacts/pocket", "grow_vocab": True, "cleaning": "classic"},
            "cleaning (classic) keeps ASCII only: give --cleaning story with --grow-vocab",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        TrainConfig(steps=1, **settings)
    assert str(error.value) == message


def test_a_model_of_a_large_vocabulary_is_trained_tuned_and_grown(here: Path, capsys: pytest.CaptureFixture) -> None:
    """From the text to the artifact: two bytes a symbol, the costs of the embedding, a base with fewer symbols."""
    draw = np.random.default_rng(0)
    stories = ["".join(map(chr, draw.integers(0x4E00, 0x4E00 + 300, 40))) + "。" for _ in range(40)]
    Path("zh.txt").write_text(f"\n{END}\n".join(stories))
    train(replace(DEBUG, data="zh.txt"), Path("zh"))
    said = capsys.readouterr().err
    assert "their embedding takes 9,568 of 36,416 parameters (26%)\ncleaning: 0 dropped, 0 stories" in said
    base = model.load("zh")
    assert base.config.vocab_size == len(base.vocab) == 299
    told = "".join(base.tell("", model.Sampling(length=30, seed=1, stop_at_end=False)))
    assert len(told) == 30 and base.vocab.fit(told) == (told, [])

    Path("de.txt").write_text(f"\n{END}\n".join(f"{story}Schöne Grüße" for story in stories))
    train(replace(DEBUG, data="de.txt", init="zh", model=base.config, grow_vocab=True), Path("grown"))
    more = model.load("grown")
    assert more.vocab.itos[:299] == base.vocab.itos and set(more.vocab.itos[299:]) == set("Schöne Grüße")
    assert "nats_per_character" not in more.metrics["base"]  # the base cannot read this text
    train(replace(DEBUG, data="de.txt", init="zh", model=base.config), Path("tuned"))
    assert model.load("tuned").vocab == base.vocab
    assert model.load("tuned").metrics["base"]["nats_per_character"] > 0
    with pytest.raises(ValueError, match=r"^teacher \(zh\) has another vocabulary than this text: "):
        train(replace(DEBUG, data="de.txt", teacher="zh"), Path("taught"))
    with pytest.raises(CorpusError, match=r"symbols: train without it, or give another text$"):
        train(replace(DEBUG, data="de.txt", init="zh", model=base.config, replay=str(ascii_text())), Path("replayed"))


def ascii_text() -> Path:
    path = Path("en.txt")
    path.write_text(f"\n{END}\n".join(f"Once upon a time {i}" for i in range(40)))
    return path


@pytest.mark.parametrize("size", [10, 300])
def test_a_replayed_text_is_read_as_the_base_has_learned_it(here: Path, size: int) -> None:
    """Also if the vocabulary has grown to two bytes: quotes are repaired, and held-out stories are removed."""
    new = "".join(map(chr, range(0x4E00, 0x4E00 + size)))
    stories = ["“Don’t!” she said.", "A béar ran.", "It was café time.", *(f"Day {i}" for i in range(9))]
    Path("own.txt").write_text(f"{new}é\n{END}\nA bèar, ran!")
    Path("again.txt").write_text(f"\n{END}\n".join(stories))
    text = prepare("own.txt", vocab=Alphabet(grown=Vocab.ascii()), progress=False)
    replayed = with_replay(text, prepare("again.txt", vocab=Vocab.ascii(), exclude=text, progress=False))
    assert replayed.report["replay"]["train"]["removed_as_in_validation"] == 1
    windows = Batches(text.train, context=4, batch_size=256, seed=1, replay=replayed.replay, replay_share=0.9)
    read = "".join(map(text.vocab.decode, windows.batch(0)[0].tolist()))
    assert '"Don' in read and "café" not in text.vocab.decode(replayed.replay) and "bear" not in read
