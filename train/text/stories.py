"""Reads text files as clean stories, one at a time, so that a corpus of any size needs little memory."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from model.vocab import END, normalise

SUFFIXES = (".txt", ".jsonl", ".parquet")
KINDS = ".txt, .jsonl or .parquet"  # the same, for messages
_CHUNK = 1 << 20  # bytes of a .txt or .jsonl file read at a time
_MARK = re.compile(re.escape(END) + r"[ \t\r]*(?:\n|\Z)")  # only at the end of a line: elsewhere it is ordinary text
_RECORDS = 4096  # records of a .parquet file read at a time

Progress = Callable[[int], object]  # called with the number of bytes read since the last call; `int` does nothing


class CorpusError(ValueError):
    """A corpus cannot be downloaded or used. The message names the file and the fix."""


def files_of(path: Path) -> list[Path]:
    """The text files at a path: the file itself, or all files in the folder that are not hidden, sorted by name."""
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        files = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))
        if not files:
            raise CorpusError(f"{path} holds no {KINDS} file")
        return files
    if not path.is_file():
        raise CorpusError(f"{path} is not a file or a folder")
    if path.suffix not in SUFFIXES:
        raise CorpusError(f"{path} must end in {KINDS}")
    return [path]


def has_stories(files: list[Path]) -> bool:
    """Whether files hold stories (separated by end marks, as records, or one a file) and not one single text."""
    if len(files) > 1 or files[0].suffix != ".txt":
        return True
    return any(_MARK.search(lines) for lines in _lines(files[0]))


def raw_stories(path: Path, whole: bool = True, progress: Progress = int) -> Iterator[str]:
    """The raw stories of a file. If `whole` is false, a .txt file comes in pieces of whole lines instead."""
    if path.suffix == ".txt":
        return _txt(path, progress) if whole else _lines(path, progress)
    return _jsonl(path, progress) if path.suffix == ".jsonl" else _parquet(path, progress)


def clean(text: str, cleaning: str) -> str:
    """Cleans a raw story. Returns '' if nothing is left.

    story: normalises it, and turns a run of blanks into one blank and a paragraph break into one newline.
    verbatim: normalises it, and keeps blanks and newlines.
    classic: drops characters outside ASCII, and turns each newline into a blank.
    """
    if cleaning == "classic":
        return text.replace("\r\n", "\n").encode("ascii", "ignore").translate(_CLASSIC, _CONTROLS).decode()
    text = normalise(text)
    if cleaning == "story":
        for run, one in (("  ", " "), (" \n", "\n"), ("\n ", "\n"), ("\n\n", "\n")):
            while run in text:
                text = text.replace(run, one)
    return text


_CLASSIC = bytes.maketrans(b"\t\n\v\f\r", b"     ")
_CONTROLS = bytes([*range(9), *range(14, 32), 127])


def read_stories(path: str | Path, cleaning: str = "story") -> Iterator[str]:
    """The clean stories of a file or folder, without the empty ones. Raises CorpusError."""
    for file in files_of(Path(path)):
        yield from filter(None, (clean(raw, cleaning).strip(" \n") for raw in raw_stories(file)))


def book_text(path: Path) -> str:
    """The whole text of a .txt file that is a single text. Raises CorpusError for any other file."""
    if has_stories([path]):
        raise CorpusError(f"{path} is not a book (a .txt file without lines {END}): give --cleaning auto")
    return "".join(_lines(path)).removeprefix("\ufeff")


def _txt(path: Path, progress: Progress) -> Iterator[str]:
    """Stories separated by end marks."""
    unfinished: list[str] = []  # the lines of the story whose end mark has not come yet
    for lines in _lines(path, progress):
        first, *others = _MARK.split(lines)
        unfinished.append(first)
        for other in others:
            yield "".join(unfinished)
            unfinished = [other]
    yield "".join(unfinished)


def _lines(path: Path, progress: Progress = int) -> Iterator[str]:
    """The text in pieces of whole lines. Raises CorpusError if it is not UTF-8."""
    done = 0
    with path.open("rb") as file:
        while raw := b"".join(file.readlines(_CHUNK)):
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path} is not UTF-8: byte 0x{raw[error.start]:02X} at offset {done + error.start}; "
                    "convert it, for example by `iconv -f WINDOWS-1252 -t UTF-8`"
                ) from None
            done += len(raw)
            progress(len(raw))


def _jsonl(path: Path, progress: Progress) -> Iterator[str]:
    """The field `text` of the JSON object on each line."""
    number = 0
    for lines in _lines(path, progress):
        for line in lines.removesuffix("\n").split("\n"):
            number += 1
            if not line.strip():
                continue
            try:
                record = json.loads(line.removeprefix("\ufeff"))  # a byte order mark
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{path}, line {number} is not JSON: {error}") from None
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise CorpusError(f'{path}, line {number} must be an object with a string "text"')
            yield record["text"]


def _parquet(path: Path, progress: Progress) -> Iterator[str]:
    """The strings of the column `text`."""
    try:
        import pyarrow.parquet
    except ImportError:
        install = ".venv/bin/python -m pip install pyarrow"
        raise CorpusError(f"{path}: reading .parquet files needs pyarrow: {install}") from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
        types = {column.name: str(column.type) for column in table.schema_arrow}
        if not re.match(r"(dictionary<values=)?(large_)?string", types.get("text", "")):
            columns = ", ".join(f"{name} ({kind})" for name, kind in types.items())
            raise CorpusError(f"{path} must have a column `text` of strings; its columns: {columns}")
        size = path.stat().st_size / max(1, table.metadata.num_rows)
        for batch in table.iter_batches(_RECORDS, columns=["text"]):
            yield from filter(None, batch.column(0).to_pylist())
            progress(int(size * len(batch)))
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a page of the file is damaged
        raise CorpusError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from None
