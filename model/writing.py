"""Words and sentences in any language, by what Unicode says of each character.

A script without case has no names, and one without sentence marks (Thai, Lao) has only lines.
"""
# ruff: noqa: RUF001 (this file needs characters that look like others)

import re
import unicodedata

STOPS = ".!?։؟۔।॥།።፧፨။។៕᠃᠉‼‽⁇⁈⁉。．！？｡"  # what ends a sentence
QUOTES = '"“”„‟«»「」『』｢｣〝〞〟＂'  # they open in one language and close in another
_SPACE = "\u00a0\u202f"  # stands between a stop and a closing quotation mark in French: « Va ! »
CLOSING = frozenset(QUOTES + _SPACE)
SENTENCE_END = re.compile(rf"[{STOPS}\n][{_SPACE}]?[{QUOTES}]?$")
_NO_BLANKS = "CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATA", "THAI ", "LAO ", "KHMER ", "MYANMAR "

# Patterns of words read ASCII, and for each other character an ASCII one of its kind, or one of these two.
MARK = "\u0300"  # a vowel sign, an accent, a joiner
NO_BLANKS = "\u4e00"  # a letter of a script without blanks between words
_RUN = rf"{NO_BLANKS}[{NO_BLANKS}{MARK}]*"
WORD = re.compile(rf"[A-Za-z0-9][A-Za-z0-9{MARK}]*(?:'[A-Za-z0-9][A-Za-z0-9{MARK}]*)*|{_RUN}")
PLAIN_WORD = re.compile(rf"[A-Za-z][A-Za-z{MARK}]*(?:'[a-z][a-z{MARK}]*)?|{_RUN}")  # no digits, and at most Tom's
_LETTER = re.compile(rf"{NO_BLANKS}{MARK}*")


class _Kinds(dict[int, str]):
    """A table for `str.translate` from characters to what `WORD` reads. Each entry is computed on its first use."""

    def __missing__(self, code: int) -> str:
        self[code] = kind(chr(code))
        return self[code]


_KINDS = _Kinds()


def kind(character: str) -> str:
    """What `WORD` reads for a character: an ASCII one for itself."""
    if character.isascii():
        return character
    if character == "’":
        return "'"
    if unicodedata.category(character)[0] == "M" or character in "\u200c\u200d":  # joiners are part of Indic words
        return MARK
    if not character.isalnum():
        return " "
    if unicodedata.name(character, "").startswith(_NO_BLANKS):
        return NO_BLANKS
    if not character.isalpha():
        return "0"
    return "A" if character.isupper() or character.istitle() else "a"


def words_in(text: str, pattern: re.Pattern[str] = WORD) -> list[str]:
    """The words of a text: runs of letters, digits and marks, with an apostrophe between them.

    Where a script puts no blanks between words, they are the overlapping pairs of its letters, each with its marks (a
    single letter is alone), as in the CJK analyser of Lucene: what repeats can be found without a dictionary.
    """
    if text.isascii():
        return pattern.findall(text)
    kinds = text.translate(_KINDS)
    words = []
    for match in pattern.finditer(kinds):
        start, end = match.span()
        if kinds[start] == NO_BLANKS:
            edges = [letter.start() for letter in _LETTER.finditer(kinds, start, end)] + [end]
            words += [text[a:b] for a, b in zip(edges, edges[2:] or edges[1:], strict=False)]
        else:
            words.append(text[start:end])
    return words


def quotation_marks(line: str) -> int:
    """How many quotation marks a line has. With an odd number, a quotation is open."""
    return sum(map(line.count, QUOTES))
