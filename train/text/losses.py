"""Counts what cleaning changes in a text, so that nothing is lost unsaid."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from model.vocab import Vocab, dropped_controls, is_accent, normalise, repair
from train.text.reading import CorpusError
from train.text.scripts import script_of

LITTLE, HALF = 0.05, 0.5  # of a text: losing more than this is a warning, or a refusal
_PRINTABLE = bytes([10, *range(32, 127)])
_INDENTED = re.compile(r"^ +(?=\S)", re.MULTILINE)


@dataclass
class Losses:
    """What was read of some files, and what cleaning did to it."""

    characters: int = 0  # read
    dropped: Counter[str] = field(default_factory=Counter)
    normalised: int = 0  # characters outside ASCII that were replaced by ASCII ones
    tabs: int = 0  # and other control characters that became blanks
    squeezed: int = 0  # blanks and line ends that were removed
    lines: int = 0
    indented: int = 0  # lines that lost the blanks before them
    empty: int = 0  # records without text, and stories of which nothing is left

    def count(self, raw: str, cleaning: str, vocab: Vocab | None) -> None:
        """Counts the characters of a raw text that cleaning for a vocabulary replaces, and those that it drops."""
        self.characters += len(raw)
        if cleaning != "classic" and not vocab.is_ascii:
            self.dropped.update(dropped_controls(raw))
            self.tabs += raw.count("\t")
            return
        ascii_only = raw.encode("ascii", "ignore")
        if len(ascii_only) == len(raw) and not ascii_only.translate(None, _PRINTABLE):
            return
        text = raw if cleaning == "classic" else repair(raw)
        others = Counter(re.sub(r"[\n -~]+", "", text))
        gone = {c: count for c, count in others.items() if _is_dropped(c, cleaning)}
        self.dropped.update(gone)
        self.normalised += len(raw) - len(ascii_only) - sum(n for c, n in gone.items() if not c.isascii())
        self.tabs += sum(count for c, count in others.items() if c.isascii() and c != "\r" and c not in gone)

    def restricted(self, plain: str, vocab: Vocab) -> str:
        """A clean text with the symbols of `vocab` only. A missing newline becomes a blank, others are dropped."""
        if "\n" not in vocab.stoi:
            plain = plain.replace("\n", " ")
        if unknown := vocab.unknown.findall(plain):
            self.dropped.update(unknown)
            plain = vocab.unknown.sub("", plain)
        return plain

    def count_squeezed(self, plain: str, squeezed: str) -> None:
        """Counts the blanks and line ends that a text lost, and the lines that were indented."""
        self.squeezed += len(plain) - len(squeezed)
        self.lines += squeezed.count("\n") + 1
        if "\n " in plain or plain.startswith(" "):
            self.indented += len(_INDENTED.findall(plain))

    def report(self) -> dict[str, Any]:
        """The counts, as the report of a corpus holds them: what was dropped by script."""
        scripts: Counter[str] = Counter()
        for character, count in self.dropped.items():
            scripts[script_of(character)] += count
        names = "characters", "tabs", "squeezed", "lines", "indented", "empty"
        return {name: getattr(self, name) for name in names} | {"dropped": dict(scripts.most_common())}

    def require_most_kept(self, name: str, fix: str) -> None:
        """Raises CorpusError if more than half of what was read was dropped."""
        read = self.report()
        if share_dropped(read) > HALF:
            raise CorpusError(f"{name}: {dropped(read)}; {fix}")


def share_dropped(read: dict[str, Any]) -> float:
    """The share of the characters that were dropped, from 0 to 1. `read` is a report of `Losses`."""
    return sum(read["dropped"].values()) / max(1, read["characters"])


def dropped(read: dict[str, Any]) -> str:
    """In words: "82% of the characters are dropped (Cyrillic 3,210, symbols 4)"."""
    scripts = ", ".join(f"{script} {count:,}" for script, count in list(read["dropped"].items())[:3])
    return f"{share_dropped(read):.0%} of the characters are dropped ({scripts})"


def _is_dropped(character: str, cleaning: str) -> bool:
    """Whether cleaning leaves nothing of a character. An accent that follows its letter is no loss of its own."""
    if cleaning == "classic":
        return not character.isascii() or not (character.isspace() or character.isprintable())
    return not normalise(character) and not is_accent(character)
