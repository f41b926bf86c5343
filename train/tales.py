"""Books of Project Gutenberg to tales: the licence, front matter, headings, notes and questions are left out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LICENCE = re.compile(r"^\*\*\* ?(START|END) OF .*$", re.MULTILINE)
_TALE = 400  # characters: what is shorter between two headings is a list or a title page
_FRONT = re.compile(r"PREFACE|INTRODUCTORY|CONTENTS|ILLUSTRATIONS|GLOSSARY|NOTES|INDEX|TRANSCRIBER|FOREWORD|PUBLISHER")
_ASIDE = re.compile(r"\[|\d+\. |\*[ *]*$|_?\(?(Illustration|Footnote)")  # notes, pictures, questions, asterisms


@dataclass(frozen=True)
class Book:
    """A book by its number, and the words that open and close the part of it that is wanted."""

    number: int
    first: str = ""
    last: str = ""


BOOKS = (
    Book(62514),  # Jataka Tales, Ellen C. Babbitt
    Book(7518),  # More Jataka Tales, Ellen C. Babbitt
    Book(7128),  # Indian Fairy Tales, Joseph Jacobs
    Book(11310),  # Hindu Tales from the Sanskrit, S. M. Mitra and Mrs. Arthur Bell
    Book(13268, "HONOR TO GUNESH", "NALA AND DAMAYANTI"),  # Hitopadesa, in Hindu Literature, Sir Edwin Arnold
)


def tales(text: str, book: Book) -> Iterator[str]:
    """The tales of a book, a paragraph a line.

    A heading parts two tales: a short paragraph in capitals, or one without a closing mark before two empty lines.
    What lies between two headings is a tale (of a long one, a chapter) if it is long enough and no front matter.
    """
    heading, tale = "", []
    for paragraph, empty_lines in _paragraphs(_wanted(text, book)):
        if _is_heading(paragraph, empty_lines):
            yield from _whole(heading, tale)
            heading, tale = paragraph, []
        elif not _ASIDE.match(paragraph):
            tale.append(re.sub(r"\[\d+\]|_", "", paragraph))  # footnote numbers, and the marks of italics
    yield from _whole(heading, tale)


def _wanted(text: str, book: Book) -> str:
    text = text.replace("\r\n", "\n")
    marks = {mark[1]: mark for mark in _LICENCE.finditer(text)}
    start = marks["START"].end() if "START" in marks else 0
    stop = marks["END"].start() if "END" in marks else len(text)
    text = text[start:stop]
    if book.first and (at := text.find(book.first)) >= 0:
        text = text[at:]
    if book.last and (at := text.find(book.last)) >= 0:
        text = text[:at]
    return text


def _paragraphs(text: str) -> Iterator[tuple[str, int]]:
    """Each paragraph in one line, and how many empty lines follow it."""
    parts = re.split(r"\n((?:[ \t]*\n)+)", text.strip() + "\n\n")
    for paragraph, gap in zip(parts[::2], parts[1::2], strict=False):
        yield " ".join(paragraph.split()), gap.count("\n")


def _is_heading(paragraph: str, empty_lines: int) -> bool:
    if len(paragraph) > 80 or not re.search(r"[A-Za-z]", paragraph):
        return False
    return paragraph == paragraph.upper() or (empty_lines >= 2 and not re.search(r"[.,;:!?\"')]$", paragraph))


def _whole(heading: str, tale: list[str]) -> Iterator[str]:
    text = "\n".join(tale)
    if len(text) >= _TALE and not _FRONT.search(heading.upper()):
        yield text
