"""Cleans raw texts into stories, one at a time, so that a corpus of any size needs little memory."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from model.vocab import END, Vocab
from train.text.losses import Losses
from train.text.reading import CorpusError, has_marks, lines_of, raw_texts


def has_stories(files: list[Path]) -> bool:
    """Whether files hold stories (separated by end marks, as records, or one a file) and not one single text."""
    return len(files) > 1 or files[0].suffix.lower() != ".txt" or has_marks(files[0])


def plain(text: str, cleaning: str, vocab: Vocab | None) -> str:
    """A raw text as models of a vocabulary learn it, with the blanks and line ends that it has.

    classic drops characters outside ASCII and turns each newline into a blank. All others use `vocab.clean`.
    """
    if cleaning == "classic":
        return text.replace("\r\n", "\n").encode("ascii", "ignore").translate(_CLASSIC, _CONTROLS).decode()
    return vocab.clean(text)


_CLASSIC = bytes.maketrans(b"\t\n\v\f\r", b"     ")
_CONTROLS = bytes([*range(9), *range(14, 32), 127])


def squeezed(text: str) -> str:
    """A text in which a run of blanks is one blank and a paragraph break is one newline."""
    for run, one in (("  ", " "), (" \n", "\n"), ("\n ", "\n"), ("\n\n", "\n")):
        while run in text:
            text = text.replace(run, one)
    return text


def trimmed(text: str, cleaning: str, whole: bool = True) -> str:
    """A plain story without the blanks and line ends around it. verbatim keeps the indentation of its first line.

    If `whole` is false, the text is a piece of a single text: whole lines, which it stays.
    """
    if not whole:
        return text.strip(" \n") + "\n" if cleaning == "story" else text
    return re.sub(r"\A(?: *\n)+", "", text).rstrip(" \n") if cleaning == "verbatim" else text.strip(" \n")


def clean(text: str, cleaning: str, vocab: Vocab, whole: bool = True) -> str:
    """Cleans a raw story, or a piece of a single text, for a vocabulary. Returns '' if nothing is left.

    story: `vocab.clean`, and a run of blanks becomes one blank and a paragraph break one newline.
    verbatim: `vocab.clean`, which keeps blanks and newlines.
    classic: drops characters outside ASCII, and turns each newline into a blank.
    """
    text = plain(text, cleaning, vocab)
    return trimmed(squeezed(text) if cleaning == "story" else text, cleaning, whole)


def stories_of(files: Iterable[Path], cleaning: str, vocab: Vocab, losses: Losses | None = None) -> Iterator[str]:
    """The clean stories of files, without the empty ones. `losses` counts what is read. Raises CorpusError."""
    for raw in chain.from_iterable(map(raw_texts, files)):
        if losses:
            losses.count(raw, cleaning, vocab)
        if story := clean(raw, cleaning, vocab):
            yield story


def book_text(path: Path) -> str:
    """The whole text of a .txt file that is a single text. Raises CorpusError for any other file."""
    if has_stories([path]):
        raise CorpusError(f"{path} is not a book (a .txt file without {END}): give --cleaning auto")
    return "".join(lines_of(path))
