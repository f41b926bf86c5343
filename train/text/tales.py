"""Cuts books into tales and leaves out the rest: python -m train.text.tales BOOKS... OUT

It counts what it leaves out: licences, front matter, headings, notes and pictures, and questions after a chapter.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.command import path, run_command
from model.vocab import END
from model.writing import QUOTES, STOPS
from train.flags import Parser, refuse
from train.text.files import replace_file
from train.text.reading import CorpusError
from train.text.sources import sources
from train.text.stories import book_text

BOOKS = (  # their numbers at Project Gutenberg
    62514,  # Jataka Tales, Ellen C. Babbitt, 1912
    7518,  # More Jataka Tales, Ellen C. Babbitt, 1922
    7128,  # Indian Fairy Tales, Joseph Jacobs, 1892
    11310,  # Hindu Tales from the Sanskrit, S. M. Mitra and Mrs. Arthur Bell, 1919
    13268,  # Hitopadesa, in Hindu Literature, Sir Edwin Arnold, 1861
)
EVERY = 10  # every tenth tale is for validation; with fewer than ten tales, the last one is
HITOPADESA = "HONOR TO GUNESH", "NALA AND DAMAYANTI"  # its first words in Hindu Literature, and those of the next work

_LICENCE = re.compile(r"^\*\*\* ?(START|END) OF .*$", re.MULTILINE)
_SHORTEST = 400  # bytes (a Chinese character says more than a letter): a shorter section is a list or a title page
_FRONT = re.compile(
    r"PREFACE|INTRODUCT|CONTENTS|ILLUSTRATION|GLOSSARY|NOTES|INDEX|TRANSCRIBER|FOREWORD|PUBLISHER|DEDICATION"
)
_PART = re.compile(r"(CHAPTER|PART)\b.*|[IVXL]+\.?")  # a heading inside a tale, or next to its title
_QUESTION = re.compile(r"\d+\. ")
_NOTE = re.compile(r"\[|\*[ *]*$")  # a note, a picture, or an asterism
_MARKS = re.compile(r"\[(Pg )?\d+\]|_")  # marks of footnotes, pages and italics


def tales(book: str, left_out: Counter[str]) -> list[tuple[str, str]]:
    """Title and text of each tale in a plain-text book. Each line of the text is a paragraph or a line of verse.

    A heading is a short paragraph in capitals, or a short paragraph without closing punctuation between empty lines.
    The heading of a chapter or part does not begin a new tale. Text before the first heading has the title ''.
    `left_out` counts the characters that are not part of a tale, by kind.
    """
    sections: list[tuple[str, list[str]]] = [("", [])]
    heading = False
    for paragraph, before, after in _paragraphs(_body(book, left_out)):
        plain = " ".join(paragraph.split())
        heading = _is_heading(plain, before, after, below_another=heading)
        if heading:
            left_out["headings"] += len(plain)
            if not _PART.fullmatch(plain):
                sections.append((_MARKS.sub("", plain).strip(" ."), []))
        elif _QUESTION.match(plain):
            left_out["questions"] += len(plain)
        elif _NOTE.match(plain):
            left_out["notes"] += len(plain)
        else:
            lines = paragraph.splitlines()
            verse = all(line.startswith("  ") for line in lines)
            sections[-1][1].extend(" ".join(_MARKS.sub("", line).split()) for line in (lines if verse else [plain]))
    found = []
    for title, lines in sections:
        text = "\n".join(lines)
        if len(text.encode(errors="replace")) < _SHORTEST or _FRONT.search(title.upper()):
            left_out["front matter"] += len(text)
        else:
            found.append((title, text))
    return found


def write(books: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Writes train.txt and valid.txt, with end marks between tales. Returns their counts and what was left out.

    Raises CorpusError naming a file that is not a book, or the books if they hold too few tales.
    """
    left_out: Counter[str] = Counter()
    found = [tale for book in books for tale in tales(book_text(book), left_out)]
    if len(found) < 2:
        names = ", ".join(map(str, books))
        raise CorpusError(f"{names}: {len(found)} tales found, but training and validation need two: give more books")
    held_out = found[EVERY - 1 :: EVERY] or found[-1:]
    parts = {"train": [tale for tale in found if tale not in held_out], "valid": held_out}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        replace_file(folder / f"{name}.txt", "".join(f"{text}\n{END}\n" for _, text in part).encode())
    return {
        "tales": {name: len(part) for name, part in parts.items()},
        "characters": {name: sum(len(text) for _, text in part) for name, part in parts.items()},
        "held_out": [title for title, _ in held_out],
        "left_out": dict(left_out.most_common()),
    }


def _body(text: str, left_out: Counter[str]) -> str:
    """The book without the licence around it. From Hindu Literature it takes the Hitopadesa only."""
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
    """Each paragraph, unchanged, and the number of empty lines before and after it."""
    parts = re.split(r"\n((?:[ \t]*\n)+)", text.strip("\n") + "\n\n")
    before = 0
    for paragraph, gap in zip(parts[::2], parts[1::2], strict=False):
        if paragraph.strip():
            yield paragraph, before, gap.count("\n")
            before = gap.count("\n")


def _is_heading(paragraph: str, before: int, after: int, below_another: bool) -> bool:
    if len(paragraph) > 80 or not any(map(str.isalpha, paragraph)):
        return False
    if paragraph.isupper():
        return True
    if paragraph[-1] in ",;:!?')-" + QUOTES:
        return False
    return before >= 3 or (after >= 2 and (below_another or paragraph[-1] not in STOPS))


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m train.text.tales", description=__doc__)
    parser.add_argument("books", type=path, nargs="+", metavar="BOOK", help="a book in plain text, or a folder of them")
    parser.add_argument("out", type=path, metavar="OUT", help="the folder to write train.txt and valid.txt into")
    args = parser.parse_args(argv)
    try:
        books = sources(args.books)
        if found := [args.out / name for name in ("train.txt", "valid.txt") if (args.out / name).exists()]:
            return refuse(f"{found[0]} exists, and would be replaced: give another folder, or delete it")
        print(json.dumps(write(books.train + books.valid, args.out), indent=1))
    except CorpusError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    run_command(main)
