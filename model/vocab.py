"""Text to character ids and back: text cleaning, and the vocabulary that numbers the characters."""
# ruff: noqa: RUF001, RUF002 (this file needs characters that look like others)

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

END = "<|endoftext|>"
LARGEST = 8_192  # symbols of a vocabulary

# Mojibake is UTF-8 that was read as cp1252 (or as latin-1, where cp1252 has no character). The byte of each character:
_BYTE = {c: b for b in range(0x80, 0x100) for c in (chr(b), bytes([b]).decode("cp1252", "ignore") or chr(b))}
_CONTINUATION = "".join(c for c, b in _BYTE.items() if b < 0xC0)  # stands for a continuation byte
_CLOSING = "’”…–—»›"  # in correct text these can follow a letter: “IRMÃ”, coborâ…
_FIRST = re.compile("[ÂÃâðïÅË]")  # the characters that mojibake starts with; most texts have none of them
_PASSES = 64  # at most, over mojibake of mojibake: with a limit, the time is linear in the length of any text
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_MOJIBAKE = re.compile(
    f"[ÂÃ](?![{_CLOSING}])[{_CONTINUATION}]"
    f"|(?<![A-ZÀ-Þ«“‘])[ÂÃ][{_CLOSING}]"
    f"|â(?![{_CLOSING}‘“])[{_CONTINUATION}][{_CONTINUATION}]"
    f"|ð[Ÿ\x9f][{_CONTINUATION}][{_CONTINUATION}]"
    "|ï»¿|ï¸\x8f"
    "|(?<=[¬°¸])(?:Å[“¡¾¸]|Ë[œ†])|(?<=[a-z])Å“"  # within mojibake of mojibake; but not in cœur
    "|â€"  # a closing quote that lost its last byte, 0x9D
)


def _fix_mojibake(match: re.Match[str]) -> str:
    try:
        return bytes(_BYTE[c] for c in match[0]).decode()
    except UnicodeDecodeError:
        return "”" if match[0] == "â€" else match[0]


def repair(text: str) -> str:
    """Returns the text with its mojibake repaired (`â€™` -> `’`, `Ã©` -> `é`), also nested, and `\\r\\n` as `\\n`."""
    fixed = text.replace("\r\n", "\n")
    for _ in range(_PASSES):
        if not _FIRST.search(fixed) or (next_pass := _MOJIBAKE.sub(_fix_mojibake, fixed)) == fixed:
            break
        fixed = next_pass
    return fixed


class _ToAscii(dict[int, str]):
    """A table for `str.translate` from characters to ASCII text, or ''. Each entry is computed on its first use."""

    def __missing__(self, code: int) -> str:
        decomposed = unicodedata.normalize("NFKD", chr(code))
        plain = "".join(_PLAIN.get(c, c) for c in decomposed)
        if chr(code) in "\t\v\f\x1c\x1d\x1e\x1f":
            plain = " "
        self[code] = "".join(c for c in plain if " " <= c <= "~")
        return self[code]


_PLAIN = {
    **dict.fromkeys("‘’‚‛‹›ʼ′‵", "'"),
    **dict.fromkeys("“”„‟«»″‶", '"'),
    **dict.fromkeys("‐‑‒–—―−⁃", "-"),
    **{"⁄": "/", "×": "x", "\u1680": " "},
    # letters that Unicode does not decompose
    **{"æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ß": "ss", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D"},
    **{"ł": "l", "Ł": "L", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"},
}
_TO_ASCII = _ToAscii({ord(c): "\n" for c in "\n\r\u2028\u2029"} | {ord("´"): "'"})


def normalise(text: str) -> str:
    """Returns the text in printable ASCII and newlines.

    Mojibake is repaired. Typographic quotes, dashes, ellipses and blanks become their ASCII counterparts. Accents are
    removed. Line ends become `\\n` and other blanks ' '. All other characters outside printable ASCII are dropped.
    The function is idempotent. `normalise(a + b)` differs from `normalise(a) + normalise(b)` only if the cut is within
    mojibake or `\\r\\n`.
    """
    if not text.isascii():
        text = _NOT_ASCII.sub(lambda run: run[0].translate(_TO_ASCII), repair(text))
    text = text.replace("\r\n", "\n")
    return text.translate(_TO_ASCII)  # fast, because all is ASCII now


# What `compose` replaces or drops: controls, line ends of other systems, marks that turn the direction of what follows
# around, halves of surrogate pairs, and codes that are no characters.
_CONTROLS = re.compile(
    "[\x00-\t\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
_HARMLESS = "NSM", "BN"  # Unicode's classes of invisible characters that turn nothing around
_BLANKS = dict.fromkeys("\r\x85\u2028\u2029", "\n") | dict.fromkeys("\t\v\f\x1c\x1d\x1e\x1f", " ")


def compose(text: str) -> str:
    """Returns the text in Unicode's composed form (NFC), in which an accented letter is one character.

    Line ends become `\\n` and tabs ' '. Other control characters are dropped, as are marks that turn the direction of
    the text around and halves of characters. Everything else stays: quotes, dashes, blanks of any width.
    """
    if _CONTROLS.search(text):
        text = _CONTROLS.sub(lambda match: _BLANKS.get(match[0], ""), text.replace("\r\n", "\n"))
    return unicodedata.normalize("NFC", text)


def dropped_controls(text: str) -> list[str]:
    """The characters of a text that `compose` drops, in their order."""
    return [character for character in _CONTROLS.findall(text) if character not in _BLANKS]


def is_mark(character: str) -> bool:
    """Whether a character is written on the one before it: a vowel sign, an accent."""
    return unicodedata.category(character)[0] == "M"


def is_accent(character: str) -> bool:
    """Whether a character is an accent that stands behind its letter, as in decomposed text, and not a vowel sign."""
    return unicodedata.name(character, "").startswith("COMBINING ")


def visible(character: str) -> str:
    """A character as it can be read alone: a mark stands on a dotted circle, an invisible one is its code (U+202E)."""
    if is_mark(character):
        return f"◌{character}"
    return character if character.isprintable() and character != " " else f"U+{ord(character):04X}"


class Vocab:
    """The symbols of a model, each a character or the end mark, numbered from 0.

    A vocabulary of ASCII characters reads any text as `normalise` turns it into ASCII. Another one, which was made of
    a text with `of_counts`, reads text as `compose` writes it.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        """`symbols` are 1 to 8,192 different ones; `END` among them is the end mark. Raises ValueError otherwise."""
        self.itos = list(symbols)
        self.stoi = {symbol: i for i, symbol in enumerate(self.itos)}
        if not 1 <= len(self.itos) <= LARGEST:
            raise ValueError(f"a vocabulary has 1 to {LARGEST:,} symbols, not {len(self.itos):,}")
        for i, symbol in enumerate(self.itos):
            half = isinstance(symbol, str) and symbol.encode(errors="ignore") == b""  # a lone surrogate
            if half or not isinstance(symbol, str) or (len(symbol) != 1 and symbol != END):
                raise ValueError(f"symbol {i} of a vocabulary must be one character or {END!r}, not {symbol!r}")
            if self.stoi[symbol] != i:
                raise ValueError(f"symbol {symbol!r} is in the vocabulary twice, as {i} and {self.stoi[symbol]}")
        self.is_ascii = all(map(str.isascii, self.itos))
        self.end: int | None = self.stoi.get(END)
        # the symbol that opens a text: the end mark, else a blank, else the first symbol
        self.start: int = self.stoi.get(" ", 0) if self.end is None else self.end

    @classmethod
    def ascii(cls) -> "Vocab":
        """Returns the 97 symbols of our models: newline 0, the printable ASCII characters 1 to 95, end mark 96."""
        return cls(["\n", *map(chr, range(32, 127)), END])

    @classmethod
    def from_text(cls, text: Iterable[str]) -> "Vocab":
        """Returns the vocabulary of a text: its characters, sorted, without an end mark."""
        return cls(sorted(set(text)))

    @classmethod
    def of_counts(cls, counts: Mapping[str, int]) -> "Vocab":
        """Returns the vocabulary of counted characters: the most frequent one first, and the end mark as the last."""
        return cls([*sorted(counts, key=lambda character: (-counts[character], character)), END])

    @classmethod
    def from_stoi(cls, stoi: Mapping[str, int]) -> "Vocab":
        """Returns the vocabulary of a mapping from symbol to id.

        Raises ValueError unless the ids are 0 to n-1, once each.
        """
        if any(type(i) is not int for i in stoi.values()) or sorted(stoi.values()) != list(range(len(stoi))):
            raise ValueError(f"the ids of a vocabulary of {len(stoi)} symbols must be 0 to {len(stoi) - 1}, once each")
        return cls(sorted(stoi, key=stoi.__getitem__))

    def encode(self, text: str) -> list[int]:
        """Returns the id of every character.

        Raises KeyError, which names the first character that is not in the vocabulary.
        """
        try:
            return [self.stoi[character] for character in text]
        except KeyError as unknown:
            raise KeyError(f"the vocabulary lacks {unknown.args[0]!r}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, without end marks. Raises IndexError for an id outside the vocabulary."""
        return "".join(self.itos[i] for i in ids if i != self.end)

    @cached_property
    def unknown(self) -> re.Pattern[str]:
        """Finds the characters of a text that the vocabulary lacks."""
        known = "".join(map(re.escape, (symbol for symbol in self.itos if symbol != END)))
        return re.compile(f"[^{known}]" if known else "(?s:.)")

    def clean(self, text: str) -> str:
        """Returns the text as a model with this vocabulary learns it. Some characters may not be in the vocabulary."""
        return normalise(text) if self.is_ascii else compose(text)

    def fit(self, text: str) -> tuple[str, list[str]]:
        """Returns the text as this vocabulary can encode it, and the characters of the original that were lost.

        The text is cleaned. If the vocabulary has no newline, a newline becomes a blank. Characters that are still not
        in the vocabulary are dropped. Each lost character is listed once.
        """
        if not self.is_ascii:
            plain = self._without_newlines(compose(text))
            lost = dropped_controls(text) + self.unknown.findall(plain)
            return self.unknown.sub("", plain), list(dict.fromkeys(lost))
        kept, dropped = [], {}
        for original in repair(text):
            plain = self._without_newlines(normalise(original))
            kept.append("".join(c for c in plain if c in self.stoi))
            # dropping an accent or an invisible character is not a loss, but one that turns the text around is
            unseen = unicodedata.category(original) in ("Mn", "Cf") and unicodedata.bidirectional(original) in _HARMLESS
            if kept[-1] != plain or not (plain or unseen):
                dropped[original] = None
        return "".join(kept), list(dropped)

    def _without_newlines(self, text: str) -> str:
        return text if "\n" in self.stoi else text.replace("\n", " ")

    def __len__(self) -> int:
        return len(self.itos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocab) and self.itos == other.itos

    def __hash__(self) -> int:
        return hash(tuple(self.itos))

    def __repr__(self) -> str:
        return f"Vocab({self.itos!r})"
