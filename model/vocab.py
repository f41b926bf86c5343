"""Text to character ids and back: the cleaning of text, and the vocabulary that numbers its characters."""
# ruff: noqa: RUF001, RUF002 (this file is about the characters that look like others)

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

END = "<|endoftext|>"
_LARGEST = 256  # an id is stored as one byte

# UTF-8 that was read as cp1252 (or, where cp1252 has no character, as latin-1): what each such character was as a byte.
_BYTE = {c: b for b in range(0x80, 0x100) for c in (chr(b), bytes([b]).decode("cp1252", "ignore") or chr(b))}
_REST = "".join(c for c, b in _BYTE.items() if b < 0xC0)  # stands for a continuation byte
_CLOSING = "’”…–—»›"  # these do follow a letter in sound text: “IRMÃ”, coborâ…
_LEAD = re.compile("[ÂÃâðïÅË]")  # what mojibake starts with: most text has none
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_MOJIBAKE = re.compile(
    f"[ÂÃ](?![{_CLOSING}])[{_REST}]"
    f"|(?<![A-ZÀ-Þ«“‘])[ÂÃ][{_CLOSING}]"
    f"|â(?![{_CLOSING}‘“])[{_REST}][{_REST}]"
    f"|ð[Ÿ\x9f][{_REST}][{_REST}]"
    "|ï»¿|ï¸\x8f"
    "|(?<=[¬°¸])(?:Å[“¡¾¸]|Ë[œ†])|(?<=[a-z])Å“"  # within mojibake of mojibake; cœur
    "|â€"  # a closing quote whose last byte, 0x9D, was lost on the way
)


def _mend(match: re.Match[str]) -> str:
    try:
        return bytes(_BYTE[c] for c in match[0]).decode()
    except UnicodeDecodeError:
        return "”" if match[0] == "â€" else match[0]


def repair(text: str) -> str:
    """The text with its mojibake undone (`â€™` -> `’`, `Ã©` -> `é`), however often made, and `\\r\\n` as `\\n`."""
    mended = text.replace("\r\n", "\n")
    while _LEAD.search(mended) and (again := _MOJIBAKE.sub(_mend, mended)) != mended:
        mended = again
    return mended


class _ToAscii(dict[int, str]):
    """A table for `str.translate` that works out each character on its first use: the ASCII text it becomes, or ''."""

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
    """The text in printable ASCII and newlines. Idempotent; `normalise(a + b)` may differ from the parts only where
    mojibake or `\\r\\n` was cut.

    Mojibake is repaired; typographic quotes, dashes, ellipses and blanks become their ASCII kin; accents are taken off;
    line ends become `\\n` and other blanks ' '; what is left outside printable ASCII is dropped.
    """
    text = _NOT_ASCII.sub(lambda run: run[0].translate(_TO_ASCII), repair(text))
    return text.translate(_TO_ASCII)  # fast, as all is ASCII now


class Vocab:
    """The symbols of a model, each a character or the end mark, numbered from 0."""

    def __init__(self, symbols: Sequence[str]) -> None:
        """At most 256 different symbols; `END` among them is the end mark. Raises ValueError otherwise."""
        self.itos = list(symbols)
        self.stoi = {symbol: i for i, symbol in enumerate(self.itos)}
        if not 1 <= len(self.itos) <= _LARGEST:
            raise ValueError(f"a vocabulary has 1 to {_LARGEST} symbols, not {len(self.itos)}")
        for i, symbol in enumerate(self.itos):
            half = isinstance(symbol, str) and symbol.encode(errors="ignore") == b""  # a lone surrogate
            if half or not isinstance(symbol, str) or (len(symbol) != 1 and symbol != END):
                raise ValueError(f"symbol {i} of a vocabulary must be one character or {END!r}, not {symbol!r}")
            if self.stoi[symbol] != i:
                raise ValueError(f"symbol {symbol!r} stands twice in the vocabulary, as {i} and {self.stoi[symbol]}")
        self.end: int | None = self.stoi.get(END)
        # what opens a text; a vocabulary without an end mark and without a blank has only its first symbol to offer
        self.start: int = self.stoi.get(" ", 0) if self.end is None else self.end

    @classmethod
    def ascii(cls) -> "Vocab":
        """The 97 symbols of our models: newline 0, the printable ASCII characters 1 to 95, the end mark 96."""
        return cls(["\n", *map(chr, range(32, 127)), END])

    @classmethod
    def from_text(cls, text: Iterable[str]) -> "Vocab":
        """The sorted characters of a text, without an end mark."""
        return cls(sorted(set(text)))

    @classmethod
    def from_stoi(cls, stoi: Mapping[str, int]) -> "Vocab":
        """The vocabulary of a mapping from symbol to id. Raises ValueError unless its ids are 0 to n-1, once each."""
        if any(type(i) is not int for i in stoi.values()) or sorted(stoi.values()) != list(range(len(stoi))):
            raise ValueError(f"the ids of a vocabulary of {len(stoi)} must be 0 to {len(stoi) - 1}, once each")
        return cls(sorted(stoi, key=stoi.__getitem__))

    def encode(self, text: str) -> list[int]:
        """The id of every character. Raises KeyError naming the first that the vocabulary lacks."""
        try:
            return [self.stoi[character] for character in text]
        except KeyError as unknown:
            raise KeyError(f"the vocabulary lacks {unknown.args[0]!r}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; the end mark is no text. Raises IndexError for an id outside the vocabulary."""
        return "".join(self.itos[i] for i in ids if i != self.end)

    def fit(self, text: str) -> tuple[str, list[str]]:
        """The text as this vocabulary can encode it, and the characters of the original that were lost, once each.

        The text is normalised; a newline that the vocabulary lacks becomes a blank; what it still lacks is dropped.
        """
        kept, dropped = [], {}
        for original in repair(text):
            plain = normalise(original)
            if "\n" not in self.stoi:
                plain = plain.replace("\n", " ")
            kept.append("".join(c for c in plain if c in self.stoi))
            # an accent or an invisible character that goes is no loss
            if kept[-1] != plain or (not plain and unicodedata.category(original) not in ("Mn", "Cf")):
                dropped[original] = None
        return "".join(kept), list(dropped)

    def __len__(self) -> int:
        return len(self.itos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocab) and self.itos == other.itos

    def __hash__(self) -> int:
        return hash(tuple(self.itos))

    def __repr__(self) -> str:
        return f"Vocab({self.itos!r})"
