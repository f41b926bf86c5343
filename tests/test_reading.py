"""Reading files of every kind, and refusing those that are not what their name says."""
# ruff: noqa: RUF001 (this file needs characters that look like others)

from __future__ import annotations

import gzip
import json
import re
import zipfile
from pathlib import Path

import pytest

from model.vocab import END
from train.text.reading import CorpusError, raw_texts


@pytest.fixture(params=[1, 3, 1 << 20])
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty working folder, and the bytes that are read at a time: the pieces make no difference."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.text.reading._CHUNK", request.param)
    return tmp_path


def texts(name: str, content: bytes | str, **settings: object) -> list[str]:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(raw_texts(Path(name), **settings))


def refused(name: str, content: bytes | str) -> str:
    with pytest.raises(CorpusError) as error:
        texts(name, content)
    return str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_make_no_difference(here: Path, encoding: str, end: str) -> None:
    lines = ["Zoë ran.", "", END, "“Two”", END]
    assert texts("a.txt", end.join(lines).encode(encoding)) == ["Zoë ran.\n\n", "“Two”\n"]
    assert "".join(texts("a.txt", end.join(lines[:2]).encode(encoding), whole=False)) == "Zoë ran.\n"
    records = end.join(json.dumps({"text": text}) for text in ("One\r\nline", "Two"))
    assert texts("a.jsonl", records.encode(encoding)) == ["One\r\nline", "Two"]
    table = end.join(["id,text,more", '1,"A ""word"",', 'ends.",x', "2,,x", "3,Two,x"])
    assert texts("a.CSV", table.encode(encoding)) == ['A "word",\nends.', "", "Two"]


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_columns_are_parted_as_spreadsheets_do(here: Path, between: str) -> None:
    assert texts("a.csv", between.join(["id", "text"]) + "\n" + between.join(["1", "A long " + "story " * 30_000])) == [
        "A long " + "story " * 30_000
    ]


def test_a_table_that_lost_its_quotes_is_refused(here: Path) -> None:
    fix = 'put a text with ",", quotes or line ends into quotes'
    message = f"a.csv: the row that ends in line 3 has 3 fields, not 2; {fix}"
    assert refused("a.csv", "id,text\n1,One\n2,Once, upon\n") == message
    assert refused("a.csv", "id,text\n1\n") == f"a.csv: the row that ends in line 2 has 1 fields, not 2; {fix}"
    assert refused("a.csv", 'id,text\n1,"One\n2,Two\n') == "a.csv, line 3 is not CSV: unexpected end of data"
    assert refused("a.csv", "id,story\n") == "a.csv must have a column `text`; its columns: id, story"


def test_records_without_text_are_empty_and_not_lost(here: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert texts("a.jsonl", '{"text": null}\n\n{"text": ""}\n{"text": "One"}\n') == ["", "", "One"]
    pq.write_table(pa.table({"text": [None, "One", ""]}), "made.parquet")
    assert texts("a.parquet", Path("made.parquet").read_bytes()) == ["", "One", ""]


def test_a_row_that_is_not_utf8_is_named(here: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.array([b"One", b"Tw\xff", b"Three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": rows}), "made.parquet")
    message = "a.parquet, row 2 is not UTF-8: byte 0xFF at offset 2 of its text; write the file again"
    assert refused("a.parquet", Path("made.parquet").read_bytes()) == message


@pytest.mark.parametrize("order", ["LE", "BE"])
@pytest.mark.parametrize("text", [f"Жил\n{END}\n", "一天一个男孩\n" * 40])
def test_utf16_without_a_mark_is_named(here: Path, order: str, text: str) -> None:
    content = text.encode(f"utf-16-{order}")
    found = re.fullmatch(r"a\.txt is not UTF-8: byte 0x[0-9A-F]{2} at offset \d+; (.*)", refused("a.txt", content))
    assert found[1] == f"it is like UTF-16: `iconv -f UTF-16{order} -t UTF-8`"


def test_other_encodings_are_not_mistaken_for_one_of_western_europe(here: Path) -> None:
    western = "convert it, for example by `iconv -f WINDOWS-1252 -t UTF-8`"
    assert refused("a.txt", "Ein Café.".encode("cp1252")) == f"a.txt is not UTF-8: byte 0xE9 at offset 7; {western}"
    fix = "convert it, by `iconv -f ENCODING -t UTF-8` with the one that it has, "
    fix += "such as WINDOWS-1251, GB18030 or SHIFT_JIS"
    for encoding in ("cp1251", "koi8-r"):
        content = "Жили-были дед и баба.".encode(encoding)
        assert refused("a.txt", content) == f"a.txt is not UTF-8: byte 0x{content[0]:02X} at offset 0; {fix}"
    assert refused("a.txt", "彼は走った。".encode("shift_jis")).endswith(fix)
    assert refused("a.txt", b"One\0 two, and many more words.") == (
        "a.txt is no text: byte 0x00 at offset 3; remove it, for example by `tr -d '\\000'`"
    )


def test_archives_and_documents_are_named(here: Path) -> None:
    with zipfile.ZipFile("made.zip", "w") as file:
        file.writestr("a.txt", "One")
    archive = "a zip archive or a document of an office program: unpack it, or save it as plain text"
    assert refused("a.txt", Path("made.zip").read_bytes()) == f"a.txt is {archive}"
    assert refused("a.jsonl", gzip.compress(b"One")) == "a.jsonl is a gzip archive: unpack it"
    assert refused("a.txt", b"PAR1\x15\x00") == "a.txt is a parquet file: rename it to .parquet"
    assert refused("a.txt", b"%PDF-1.7\n%\xe2\xe3") == "a.txt is a PDF document: save its text"
    assert texts("a.txt", "%PDF is how it begins.") == ["%PDF is how it begins."]
    broken = "hi".encode("utf-16") + b"\x00"
    assert refused("a.txt", broken) == "a.txt is damaged: not UTF-16 at offset 6; save it again"
