"""Text cleaning and the vocabulary."""
# ruff: noqa: RUF001 (this file needs characters that look like others)

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.vocab import END, Vocab, normalise, repair
from train.text.stories import clean

ASCII = Vocab.ascii()
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"))


def misread(text: str, encoding: str) -> str:
    """Returns mojibake: the UTF-8 of a text, read in a one-byte encoding, or as latin-1 where that has no character."""
    return "".join(bytes([b]).decode(encoding, "ignore") or chr(b) for b in text.encode())


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    "text", ["It’s “fine” – or — not…", "‘Hi’", "café, piñata, naïve", "£5 ½ «a»\u00a0b", "€ ™ 😀"]
)
def test_mojibake_is_repaired_however_often_it_was_made(text: str, encoding: str) -> None:
    once = misread(text, encoding)
    assert once != text
    assert repair(once) == text
    assert repair(misread(once, encoding)) == text


@pytest.mark.parametrize(
    ("damaged", "plain"),
    [
        ("â€œHi,â€ she said.", '"Hi," she said.'),  # the byte 0x9D was lost
        ("â€œHi,â€\x9d she said.", '"Hi," she said.'),
        ("donâ€™t", "don't"),
        ("Ã–sterreich, cafÃ©", "Osterreich, cafe"),
        ("\ufeffa", "a"),
        ("ï»¿a", "a"),
    ],
)
def test_normalise_repairs(damaged: str, plain: str) -> None:
    assert normalise(damaged) == plain


@pytest.mark.parametrize(
    "text",
    [
        "“IRMÔ, “IRMÔ",
        "„coborâ…”",
        "«Â»",
        "château, pâté, Ã, Â, â, à la",
        "“PÅ”",
        "5 Å³",
        "Ð, ð",
        "naïve",
        "€5 – â la",
        "¿Qué?",
    ],
)
def test_correct_text_is_not_changed(text: str) -> None:
    assert repair(text) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("‘a’ ‚b‛ “c” „d‟ «e» ‹f› ´", "'a' 'b' \"c\" \"d\" \"e\" 'f' '"),
        ("a–b—c‐d‑e−f", "a-b-c-d-e-f"),
        ("wait…", "wait..."),
        ("a\u00a0b\tc\u2009d\u3000e\x0bf\x0cg", "a b c d e f g"),
        ("a\r\nb\rc\nd\u2028e", "a\nb\nc\nd\ne"),
        ("café Cæsar Straße ½ ﬁn Å", "cafe Caesar Strasse 1/2 fin A"),
        ("a\u200bb\u00adc\x00d\x7fe 好 😀 £", "abcde   "),
    ],
)
def test_normalise_gives_the_ascii_counterparts(text: str, plain: str) -> None:
    assert normalise(text) == plain


@given(st.text() | st.text("âÃÂ€œ™˜\x9d\x80”’… aA\r\n"))
def test_normalise_is_idempotent_and_always_encodable(text: str) -> None:
    plain = normalise(text)
    assert normalise(plain) == plain
    assert ASCII.decode(ASCII.encode(plain)) == plain


@given(PRINTABLE)
def test_plain_text_is_unchanged(text: str) -> None:
    assert normalise(text) == text
    assert ASCII.decode(ASCII.encode(text)) == text
    assert ASCII.fit(text) == (text, [])


@given(st.text(min_size=1, max_size=200))
def test_a_vocabulary_of_a_text_encodes_that_text(text: str) -> None:
    vocab = Vocab.from_text(text)
    assert vocab.itos == sorted(set(text))
    assert vocab.decode(vocab.encode(text)) == text
    assert Vocab.from_stoi(vocab.stoi) == vocab


@given(st.text())
def test_fit_agrees_with_normalise(text: str) -> None:
    fitted, dropped = ASCII.fit(text)
    assert fitted == normalise(text)
    assert len(dropped) == len(set(dropped))


def test_the_ascii_vocabulary() -> None:
    assert len(ASCII) == 97
    assert (ASCII.stoi["\n"], ASCII.stoi[" "], ASCII.stoi["~"], ASCII.stoi[END]) == (0, 1, 95, 96)
    assert (ASCII.end, ASCII.start) == (96, 96)
    assert ASCII.decode([96, 41, 74, 96]) == "Hi"


def test_a_vocabulary_without_an_end_mark_opens_with_a_blank() -> None:
    vocab = Vocab.from_text("to be")
    assert (vocab.end, vocab.start) == (None, vocab.stoi[" "])
    assert Vocab.from_text("abc").start == 0


def test_fit_names_what_was_lost() -> None:
    assert ASCII.fit("Hi “Zoë” 好🙂好 £\x00") == ('Hi "Zoe"  ', ["好", "🙂", "£", "\x00"])
    assert ASCII.fit("❤️ e\u0301 donâ€™t\r\n") == (" e don't\n", ["❤"])  # accents and selectors do not count as lost
    assert Vocab.from_text("helo wrd").fit("hello\nWorld… “old”") == ("hello orld old", ["W", "…", "“", "”"])


def test_vocabularies_with_the_same_symbols_are_equal() -> None:
    assert Vocab("ab") == Vocab(["a", "b"])
    assert hash(Vocab("ab")) == hash(Vocab(["a", "b"]))
    assert Vocab("ab") != Vocab("ba")
    assert Vocab("ab") != "ab"
    assert repr(Vocab("ab")) == "Vocab(['a', 'b'])"


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(KeyError) as unknown:
        ASCII.encode("aé好")
    assert unknown.value.args == ("the vocabulary lacks 'é'",)
    for symbols, message in [
        ([], "a vocabulary has 1 to 8,192 symbols, not 0"),
        ([chr(i) for i in range(8_193)], "a vocabulary has 1 to 8,192 symbols, not 8,193"),
        (["a", "bc"], "symbol 1 of a vocabulary must be one character or '<|endoftext|>', not 'bc'"),
        (["a", ""], "symbol 1 of a vocabulary must be one character or '<|endoftext|>', not ''"),
        (["a", "\ud800"], "symbol 1 of a vocabulary must be one character or '<|endoftext|>', not '\\ud800'"),
        (["a", "b", "a"], "symbol 'a' is in the vocabulary twice, as 0 and 2"),
    ]:
        with pytest.raises(ValueError) as error:
            Vocab(symbols)
        assert str(error.value) == message
    for ids in [{"a": 0, "b": 2}, {"a": 0, "b": 0}, {"a": 1, "b": 2}, {"a": 0, "b": True}, {"a": 0, "b": 1.0}]:
        with pytest.raises(ValueError) as error:
            Vocab.from_stoi(ids)
        assert str(error.value) == "the ids of a vocabulary of 2 symbols must be 0 to 1, once each"


@pytest.mark.parametrize("unit", ["Â", "â", "Ã¢", "â€", "Ã\x83", "¬Å", " \n", "\r"])
def test_cleaning_takes_a_time_that_is_linear_in_the_text(unit: str) -> None:
    """With a pass for each level of mojibake, twice the text took four times as long."""

    def seconds(count: int) -> float:
        started = time.process_time()
        clean(unit * count + "\x80", "story", ASCII)
        clean("Ã" + "\x83" * count, "story", ASCII)
        return time.process_time() - started

    assert min(seconds(20_000) for _ in range(3)) < 3 * min(seconds(10_000) for _ in range(3)) + 0.01
    assert repair("Â" * 40 + "\x80") == "\x80" and repair("Ã" + "\x83" * 40 + "\x80") == "À"
