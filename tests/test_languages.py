"""The German, Hindi and Chinese stories of the tests: grammatical, all different, and measured word by word."""
# ruff: noqa: RUF001 (Chinese punctuation looks like ASCII)

from __future__ import annotations

from collections import Counter

import pytest
from languages import LANGUAGES, Chinese, German, Hindi, lexicon, share_known, stories

from model.vocab import Vocab


@pytest.mark.parametrize(
    ("language", "shortest", "longest", "marks"),
    [("german", 300, 600, "„“"), ("hindi", 250, 600, "।“”"), ("chinese", 100, 250, "，。“”")],
)
def test_stories_are_of_their_language(language: str, shortest: int, longest: int, marks: str) -> None:
    texts = stories(300, 7, language)
    assert len(set(texts)) == 300 and texts[:20] == stories(20, 7, language) != stories(20, 8, language)
    assert all(shortest <= len(text) <= longest and set(marks) < set(text) for text in texts)
    assert 200 <= len(lexicon(language)) <= 500
    assert {share_known(text, language) for text in texts} == {1}
    assert all(share_known(text, other) < 0.2 for other in LANGUAGES.keys() - {language} for text in texts[:9])
    vocab = Vocab.of_counts(Counter("".join(texts)))
    assert all(vocab.fit(text) == (text, []) for text in texts)


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("Der Fuchs, die „Mäuse“", "german", 3 / 4),
        ("es war einmal ein zorp zarp", "german", 4 / 6),
        ("छोटी चिड़िया का घर, छोटि", "hindi", 4 / 5),
        ("从前，狐狸住在森林里。", "chinese", 6 / 6),  # 从前 狐狸 住 在 森林 里
        ("狐兔子Ab", "chinese", 1 / 4),  # 狐 alone, A and b are no words
        ("", "german", 0),
        ("。！", "chinese", 0),
    ],
)
def test_known_words_are_counted(text: str, language: str, share: float) -> None:
    assert share_known(text, language) == pytest.approx(share, abs=1e-9)


def test_words_agree() -> None:
    hare, owl, deer = (
        German(*noun) for noun in (("Hase", "Hasen", 0, "alt"), ("Eule",) * 2 + (1, "alt"), ("Reh",) * 2 + (2, "alt"))
    )
    assert f"{hare:ein}, {owl:ein}, {deer:ein}" == "ein alter Hase, eine alte Eule, ein altes Reh"
    assert f"{hare:einen}, {owl:einen}, {deer:einen}" == "einen alten Hasen, eine alte Eule, ein altes Reh"
    assert f"{hare:einem}, {owl:einem}, {deer:einem}" == "einem alten Hasen, einer alten Eule, einem alten Reh"
    assert (
        f"{hare:der} {hare:den}, {owl:den}, {owl:dem} {deer:ihm|ihr|ihm}"
        == "der Hase den Hasen, die Eule, der Eule ihm"
    )
    horse, fox, lion = Hindi("घोड़ा", "घोड़े", 0, "छोटा"), Hindi("लोमड़ी", "लोमड़ी", 1, "नया"), Hindi("शेर", "शेर", 0, "नया")
    assert f"{horse:एक}, {horse:एक को} को, {horse:को} ने" == "एक छोटा घोड़ा, एक छोटे घोड़े को, घोड़े ने"
    assert f"{fox:एक} {fox:गया|गई}, {lion:एक को} को" == "एक नई लोमड़ी गई, एक नए शेर को"
    assert f"{Chinese('狐狸', '只', 0, '聪明 的'):一}" == "一 只 聪明 的 狐狸"
