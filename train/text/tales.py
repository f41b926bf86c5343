"""Books to tales, told apart and without what is no tale: python -m train.text.tales BOOKS... OUT

What is left out is counted: licences, front matter, headings, notes, pictures, and the questions that follow a chapter.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.vocab import END
from train.flags import refuse
from train.text.files import replace_file
from train.text.stories import CorpusError, text_of

BOOKS = (  # of Project Gutenberg, by number
    62514,  # Jataka Tales, Ellen C. Babbitt, 1912
    7518,  # More Jataka Tales, Ellen C. Babbitt, 1922
    7128,  # Indian Fairy Tales, Joseph Jacobs, 1892
    11310,  # Hindu Tales from the Sanskrit, S. M. Mitra and Mrs. Arthur Bell, 1919
    13268,  # Hitopadesa, in Hindu Literature, Sir Edwin Arnold, 1861
)
EVERY = 10  # every tenth tale validates; of fewer than ten the last one
HITOPADESA = "HONOR TO GUNESH", "NALA AND DAMAYANTI"  # what opens it in Hindu Literature, and what follows it there

_LICENCE = re.compile(r"^\*\*\* ?(START|END) OF .*$", re.MULTILINE)
_SHORTEST = 400  # characters: what is shorter between two headings is a list or a title page
_FRONT = re.compile(
    r"PREFACE|INTRODUCT|CONTENTS|ILLUSTRATION|GLOSSARY|NOTES|INDEX|TRANSCRIBER|FOREWORD|PUBLISHER|DEDICATION"
)
_PART = re.compile(r"(CHAPTER|PART)\b.*|[IVXL]+\.?|STORY [IVXL]+\.?")  # a heading within a tale, or beside its title
_ASIDES = {
    "questions": re.compile(r"\d+\. "),
    "pictures": re.compile(r"\[?_?\(?Illustration"),
    "notes": re.compile(r"\[|_?\(?Footnote|\*[ *]*$"),  # and asterisms
}
_MARKS = re.compile(r"\[(Pg )?\d+\]|\{\d+\}|_")  # of footnotes, pages and italics


@dataclass(frozen=True)
class Tale:
    """The text of a tale, a paragraph or a line of verse a line, and its title: '' of a text without headings."""

    title: str
    text: str


def tales(book: str, left_out: Counter[str] | None = None) -> Iterator[Tale]:
    """The tales of a book in plain text.

    A heading is a short paragraph in capitals, or a short one without a closing mark that stands between empty lines.
    A chapter or part goes on with the tale before it. `left_out` counts the characters of what is no tale, by kind.
    """
    left_out = Counter() if left_out is None else left_out
    title, tale = "", []

    def whole(more_to_come: bool) -> Iterator[Tale]:
        text = "\n".join(tale)
        title_page = more_to_come and not title
        if title_page or len(text) < _SHORTEST or _FRONT.search(title.upper()):
            left_out["front matter"] += len(text)
        else:
            yield Tale(title, text)

    heading = False
    for paragraph, before, after in _paragraphs(_wanted(book, left_out)):
        plain = " ".join(paragraph.split())
        heading = _is_heading(plain, before, after, below_another=heading)
        if heading:
            left_out["headings"] += len(plain)
            if not _PART.fullmatch(plain):
                yield from whole(more_to_come=True)
                title, tale = _MARKS.sub("", plain).strip(" ."), []
        elif kind := next((kind for kind, pattern in _ASIDES.items() if pattern.match(plain)), None):
            left_out[kind] += len(plain)
        else:
            verse = all(line.startswith("  ") for line in paragraph.splitlines())
            lines = map(str.split, paragraph.splitlines()) if verse else [plain.split()]
            tale.extend(" ".join(_MARKS.sub("", " ".join(line)).split()) for line in lines)
    yield from whole(more_to_come=False)


def write(books: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Writes train.txt and valid.txt, tales parted by end marks; gives their counts and what was left out.

    Raises CorpusError naming a file that is no book.
    """
    left_out: Counter[str] = Counter()
    found = [tale for book in books for tale in tales(text_of(book), left_out)]
    held_out = found[EVERY - 1 :: EVERY] or found[-1:]
    parts = {"train": [tale for tale in found if tale not in held_out], "valid": held_out}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        replace_file(folder / f"{name}.txt", "".join(f"{tale.text}\n{END}\n" for tale in part).encode())
    return {
        "tales": {name: len(part) for name, part in parts.items()},
        "characters": {name: sum(len(tale.text) for tale in part) for name, part in parts.items()},
        "held_out": [tale.title for tale in held_out],
        "left_out": dict(left_out.most_common()),
    }


def _wanted(text: str, left_out: Counter[str]) -> str:
    """The book without the licence around it, and of Hindu Literature the Hitopadesa alone."""
    text = text.replace("\r\n", "\n")
    marks = {mark[1]: mark for mark in _LICENCE.finditer(text)}
    start = marks["START"].end() if "START" in marks else 0
    stop = marks["END"].start() if "END" in marks else len(text)
    left_out["licences"] += len(text) - (stop - start)
    text = text[start:stop]
    first, last = (text.find(words) for words in HITOPADESA)
    if 0 <= first < last:
        left_out["other works"] += len(text) - (last - first)
        text = text[first:last]
    return text


def _paragraphs(text: str) -> Iterator[tuple[str, int, int]]:
    """Each paragraph as it stands, and how many empty lines are before and after it."""
    parts = re.split(r"\n((?:[ \t]*\n)+)", text.strip("\n") + "\n\n")
    before = 0
    for paragraph, gap in zip(parts[::2], parts[1::2], strict=False):
        if paragraph.strip():
            yield paragraph, before, gap.count("\n")
            before = gap.count("\n")


def _is_heading(paragraph: str, before: int, after: int, below_another: bool) -> bool:
    if len(paragraph) > 80 or not re.search(r"[A-Za-z]", paragraph):
        return False
    if paragraph == paragraph.upper():
        return True
    if re.search(r"[,;:!?\"')-]$", paragraph) or paragraph[0] in "\"'[":
        return False
    return before >= 3 or (after >= 2 and (below_another or not paragraph.endswith(".")))


def main(argv: Sequence[str] | None = None) -> int:
    paths = list(map(Path, sys.argv[1:] if argv is None else argv))
    if len(paths) < 2:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    *books, out = paths
    files = [file for book in books for file in (sorted(book.glob("*.txt")) if book.is_dir() else [book])]
    try:
        if not files:
            raise CorpusError(f"{', '.join(map(str, books))} holds no .txt")
        print(json.dumps(write(files, out), indent=1))
    except CorpusError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
