"""Words, ends of sentences and quotation marks: as ever in ASCII, and by Unicode in every other script."""
# ruff: noqa: RUF001 (these texts need characters that look like others)

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.sentences import repeated_pairs, words_of
from model.writing import PLAIN_WORD, SENTENCE_END, STOPS, WORD, quotation_marks, words_in

ASCII = st.text(st.characters(max_codepoint=127)) | st.text("aBz09_' .!?\"\n-")


@given(ASCII)
def test_ascii_is_read_by_the_rules_of_the_shipped_models(text: str) -> None:
    assert words_in(text) == re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)
    assert words_in(text, PLAIN_WORD) == re.findall(r"[A-Za-z]+(?:'[a-z]+)?", text)
    # the same text among characters of other scripts is read by the general rule
    for pattern in (WORD, PLAIN_WORD):
        assert words_in(f"{text} é", pattern) == [*words_in(text, pattern), "é"]
    assert bool(SENTENCE_END.search(text)) == bool(re.search(r"[.!?\n]\"?$", text))
    assert re.split(f"[{STOPS}]", text) == re.split("[.!?]", text)
    assert quotation_marks(text) == text.count('"')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Grüße, ÄRGER_2 über 30 Flüsse!", ["grüße", "ärger", "2", "über", "30", "flüsse"]),
        ("l’été, aujourd'hui ’tis rock ’n’ roll’", ["l’été", "aujourd'hui", "tis", "rock", "n", "roll"]),
        ("Его звали Пётр; e\u0301te\u0301", ["его", "звали", "пётр", "e\u0301te\u0301"]),
        ("“छोटी चिड़िया कहाँ है?” १२।", ["छोटी", "चिड़िया", "कहाँ", "है", "१२"]),
        ("क्\u200dष می\u200cخواهم السَّلامُ", ["क्\u200dष", "می\u200cخواهم", "السَّلامُ"]),
        ("강아지가 왔다.", ["강아지가", "왔다"]),
        ("小狐狸说：“好！”\n山，Tom和3只羊", ["小狐", "狐狸", "狸说", "好", "山", "tom", "和", "3", "只羊"]),
        ("ねこーと々〇", ["ねこ", "こー", "ーと", "と々", "々〇"]),
        ("ที่นี่ ไป", ["ที่นี่", "ไป"]),  # two letters with their marks are one pair
        ("❤️ ́ _ ‘’", []),  # marks alone are no words
    ],
)
def test_words_are_letters_digits_and_marks(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_plain_words_have_no_digits() -> None:
    assert words_in("Ämter’s Opa’S ab12é १क", PLAIN_WORD) == ["Ämter’s", "Opa", "S", "ab", "é", "क"]


@pytest.mark.parametrize(
    "text", ["Да.", "वह गया।", "他说：“好。”", "「好！」", "„Geh!“", "« Va\u00a0!\u00a0»", "هل؟", "Ա։"]
)
def test_a_sentence_ends_by_the_marks_of_its_script(text: str) -> None:
    assert SENTENCE_END.search(text) and not SENTENCE_END.search(text[:-2] + "x")


@pytest.mark.parametrize("text", ["„Geh!“ «Va!» »Lauf!«", "“好！” 「好」", '"Go!" “Go!” ”Gå!”', "«A „B“ c»"])
def test_quotations_are_closed_by_the_second_mark(text: str) -> None:
    assert quotation_marks(text) % 2 == 0 and quotation_marks(text[:-1]) % 2 == 1


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        ("Der Hund und der Hund.", 2),  # a pair of words, and a name or noun
        ("राजू ने राजू ने कहा।", 1),  # a pair: there are no names without case
        ("राजू और राजू।", 0),
        ("小狐狸看见小狐狸。", 1),  # three letters in a row
    ],
)
def test_repeated_pairs_in_any_script(sentence: str, count: int) -> None:
    assert repeated_pairs(sentence) == count
