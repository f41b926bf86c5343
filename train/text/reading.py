"""Reads a file as raw texts: the stories or the pieces of a .txt file, the field `text` of records."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from model.vocab import END

SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
KINDS = ".txt, .jsonl, .csv or .parquet"  # the same, for messages
_CHUNK = 1 << 20  # bytes of a text file read at a time
_MARK = re.compile(re.escape(END) + r"[ \t]*\n?")
_RECORDS = 4096  # records of a .parquet file read at a time
_BYTE_ORDER_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NOT_TEXT = {  # how files begin that are renamed or downloaded under a wrong name
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"PK\x03\x04": "a zip archive or a document of an office program: unpack it, or save it as plain text",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"BZh": "a bzip2 archive: unpack it",
    b"PAR1": "a parquet file: rename it to .parquet",
    b"%PDF": "a PDF document: save its text",
}

Progress = Callable[[int], object]  # called with the number of bytes read since the last call; `int` does nothing


class CorpusError(ValueError):
    """A corpus cannot be downloaded or used. The message names the file and the fix."""


def raw_texts(path: Path, whole: bool = True, progress: Progress = int) -> Iterator[str]:
    """The raw stories of a file. An end mark parts stories wherever it stands; a record without text is ''.

    If `whole` is false, a .txt file comes in pieces of whole lines instead.
    """
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return _txt(path, progress) if whole else lines_of(path, progress)
    records = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[suffix](path, progress)
    return (text for record in records for text in list(filter(str.strip, _MARK.split(record))) or [""])


def has_marks(path: Path) -> bool:
    """Whether an end mark stands anywhere in a .txt file."""
    return any(END in lines for lines in lines_of(path))


def lines_of(path: Path, progress: Progress = int) -> Iterator[str]:
    """A text file in pieces of whole lines, each line end as `\\n`, without a byte order mark.

    The text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Raises CorpusError for another one.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
        file.seek(0)
        line, done = [], 0  # the line that is not complete yet, in pieces
        while True:
            raw = file.read(_CHUNK)
            if encoding.startswith("utf-8") and b"\0" in raw:
                raise _not_text(path, head, done + raw.index(b"\0"), b"\0")
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                at = done + len(raw) - len(error.object) + error.start
                if not encoding.startswith("utf-8"):
                    raise CorpusError(
                        f"{path} is damaged: not {encoding.upper()} at offset {at}; save it again"
                    ) from None
                raise _not_text(path, head, at, error.object[error.start :]) from None
            whole, newline, rest = text.rpartition("\n")
            if newline:
                yield "".join([*line, whole, newline])
                line = []
            line.append(rest)
            if not raw:
                break
            done += len(raw)
            progress(len(raw))
    if last := "".join(line):
        yield last


def _not_text(path: Path, head: bytes, at: int, raw: bytes) -> CorpusError:
    """The error for a file that is not UTF-8 at an offset, where `raw` begins. `head` is the beginning of the file."""
    if kind := next((kind for start, kind in _NOT_TEXT.items() if head.startswith(start)), None):
        return CorpusError(f"{path} is {kind}")
    found = f"byte 0x{raw[0]:02X} at offset {at}"
    if head.count(0) > max(1, len(head) / 500):  # as in UTF-16, where each ASCII character has a zero byte
        order = max("LE", "BE", key=lambda order: len(re.findall("[\n ]", head.decode(f"utf-16-{order}", "replace"))))
        return CorpusError(f"{path} is not UTF-8: {found}; it is like UTF-16: `iconv -f UTF-16{order} -t UTF-8`")
    if raw[0] == 0:
        return CorpusError(f"{path} is no text: {found}; remove it, for example by `tr -d '\\000'`")
    letters = [byte for byte in head if byte > 127 or chr(byte).isalpha()]
    if sum(byte > 127 for byte in letters) < len(letters) / 2:  # accents and quotes between ASCII letters
        fix = "for example by `iconv -f WINDOWS-1252 -t UTF-8`"
    else:
        fix = "by `iconv -f ENCODING -t UTF-8` with the one that it has, such as WINDOWS-1251, GB18030 or SHIFT_JIS"
    return CorpusError(f"{path} is not UTF-8: {found}; convert it, {fix}")


def _txt(path: Path, progress: Progress) -> Iterator[str]:
    """Stories separated by end marks, without the blank ones."""
    unfinished: list[str] = []  # the lines of the story whose end mark has not come yet
    for lines in chain(lines_of(path, progress), [END]):
        first, *others = _MARK.split(lines)
        unfinished.append(first)
        for other in others:
            if (story := "".join(unfinished)).strip():
                yield story
            unfinished = [other]


def _jsonl(path: Path, progress: Progress) -> Iterator[str]:
    """The field `text` of the JSON object on each line."""
    number = 0
    for lines in lines_of(path, progress):
        for line in lines.removesuffix("\n").split("\n"):
            number += 1
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{path}, line {number} is not JSON: {error}") from None
            if not isinstance(record, dict) or not isinstance(record.get("text", 0), str | None):
                raise CorpusError(f'{path}, line {number} must be an object with a string "text"')
            yield record["text"] or ""


def has_text_column(path: Path) -> bool:
    """Whether the first line of a .csv file names a column `text`. Raises CorpusError if it is not UTF-8."""
    return "text" in _columns(next(lines_of(path), ""))[0]


def _columns(lines: str) -> tuple[list[str], str]:
    """The names of the columns in the first of these lines, in lower case, and what stands between them."""
    first = lines.partition("\n")[0]
    found = ((next(csv.reader([first], delimiter=delimiter), []), delimiter) for delimiter in ",;\t")
    names, delimiter = max(found, key=lambda columns: len(columns[0]))
    return [name.strip().lower() for name in names], delimiter


def _csv(path: Path, progress: Progress) -> Iterator[str]:
    """The column `text`, with a comma, semicolon or tab between columns."""
    csv.field_size_limit(2**31 - 1)  # the usual limit, 131,072, is less than a chapter
    pieces = lines_of(path, progress)
    first = next(pieces, "")
    columns, delimiter = _columns(first)
    if "text" not in columns:
        raise CorpusError(f"{path} must have a column `text`; its columns: {', '.join(columns)}")
    lines = (line for piece in chain([first], pieces) for line in io.StringIO(piece))
    rows, column = csv.reader(lines, delimiter=delimiter, strict=True), columns.index("text")
    next(rows)
    try:
        for row in rows:
            if len(row) not in (0, len(columns)):
                wrong = f"the row that ends in line {rows.line_num} has {len(row)} fields, not {len(columns)}"
                raise CorpusError(f'{path}: {wrong}; put a text with "{delimiter}", quotes or line ends into quotes')
            if row:
                yield row[column]
    except csv.Error as error:
        raise CorpusError(f"{path}, line {rows.line_num} is not CSV: {error}") from None


def _parquet(path: Path, progress: Progress) -> Iterator[str]:
    """The strings of the column `text`."""
    try:
        import pyarrow.parquet
    except ImportError:
        install = ".venv/bin/python -m pip install pyarrow"
        raise CorpusError(f"{path}: reading .parquet files needs pyarrow: {install}") from None
    row = 0
    try:
        table = pyarrow.parquet.ParquetFile(path)
        types = {column.name: str(column.type) for column in table.schema_arrow}
        if not re.match(r"(dictionary<values=)?(large_)?string", types.get("text", "")):
            columns = ", ".join(f"{name} ({kind})" for name, kind in types.items())
            raise CorpusError(f"{path} must have a column `text` of strings; its columns: {columns}")
        size = path.stat().st_size / max(1, table.metadata.num_rows)
        for batch in table.iter_batches(_RECORDS, columns=["text"]):
            for value in batch.column(0):
                row += 1
                yield value.as_py() or ""
            progress(int(size * len(batch)))
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02X} at offset {error.start}"
        raise CorpusError(f"{path}, row {row} is not UTF-8: {found} of its text; write the file again") from None
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a page of the file is damaged
        raise CorpusError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from None
