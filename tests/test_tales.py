"""Cutting books into tales: where a tale begins, what is left out and counted, and which tales are held out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from model.vocab import END
from train.finish import held_out_name
from train.text.corpus import CorpusError, prepare
from train.text.tales import main, tales

PROSE = "There was once a _monkey_ [3] who lived in a tree on the bank [Pg 7] of a great river.\n" * 6
LINE = " ".join(["There was once a monkey who lived in a tree on the bank of a great river."] * 6)
BOOK = f"""
*** START OF THE PROJECT GUTENBERG EBOOK FABLES ***

FABLES
by Somebody

CONTENTS

The Monkey, page 1

PREFACE

{PROSE * 2}


I

THE MONKEY

PART I

{PROSE}
"Oh!" he said. And he sang--

    "I am a monkey,
      and I sing."

[Illustration: a monkey]

1. What did he say?
Why did he say it?

PART II

{PROSE}
"I will tell thee," replied the crane:--



The Crane and the Crab.


{PROSE}
[3] A small animal.

STORY VII

The Clever Crab. [4]


CHAPTER I


{PROSE}

*** END OF THE PROJECT GUTENBERG EBOOK FABLES ***

Licence.
"""


def test_tales_are_separated_and_what_is_left_out_is_counted() -> None:
    left_out: Counter[str] = Counter()
    song = '"Oh!" he said. And he sang--\n"I am a monkey,\nand I sing."'
    assert tales(BOOK, left_out) == [
        ("THE MONKEY", f'{LINE}\n{song}\n{LINE}\n"I will tell thee," replied the crane:--'),
        ("The Crane and the Crab", LINE),
        ("The Clever Crab", LINE),
    ]
    assert left_out["questions"] == len("1. What did he say? Why did he say it?")
    assert left_out["notes"] == len("[Illustration: a monkey]" + "[3] A small animal.")
    assert left_out["front matter"] > 2 * len(LINE) and left_out["licences"] > len("Licence.")


def test_a_text_without_headings_is_one_tale() -> None:
    assert tales(PROSE, Counter()) == [("", LINE)]


def test_a_book_in_another_script_has_tales_too() -> None:
    prose = "एक वन में एक बंदर रहता था। वह बहुत चतुर था।\n" * 12
    book = f"बंदर और मगर\n\n\n{prose}\nबंदर हँसा।\n\n\n{prose}\n\n\nकौआ और साँप\n\n\n{prose}"
    found = tales(book, Counter())
    assert [title for title, _ in found] == ["बंदर और मगर", "कौआ और साँप"]
    assert found[0][1].splitlines()[1] == "बंदर हँसा।"  # a short sentence is no heading


def test_of_hindu_literature_only_the_hitopadesa_is_taken() -> None:
    book = f"THE BOOK\n\n{PROSE}\n\nHONOR TO GUNESH\n\n{PROSE}\n\nNALA AND DAMAYANTI\n\n{PROSE}"
    assert tales(book, Counter()) == [("HONOR TO GUNESH", LINE)]


def test_every_tenth_tale_is_held_out(tmp_path: Path) -> None:
    book = "".join(f"TALE {'X' * n}A\n\n{PROSE}{n}\n\n" for n in range(20))
    (tmp_path / "book.txt").write_text(book, encoding="utf-8")
    made = prepare(tmp_path / "book.txt", cleaning="tales", cache=tmp_path / "cache", progress=False)
    assert made.report["tales"]["held_out"] == [f"TALE {'X' * 9}A", f"TALE {'X' * 19}A"]
    assert (made.report["train"]["stories"], made.report["validation"]["stories"]) == (18, 2)
    assert [book["file"] for book in made.report["tales"]["books"]] == ["book.txt"]


def test_one_tale_is_too_little(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(PROSE, encoding="utf-8")
    with pytest.raises(CorpusError) as error:
        prepare(tmp_path / "book.txt", cleaning="tales", cache=tmp_path / "cache", progress=False)
    message = "1 tales found, but training and validation need two: give more books"
    assert str(error.value) == f"{tmp_path / 'book.txt'}: {message}"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("book.jsonl", b'{"text": "THE FOX"}', "is not a book (a .txt file without"),
        ("book.parquet", b"PAR1", "is not a book (a .txt file without"),
        ("book.txt", b"THE FOX\n\nA caf\xe9.\n", "is not UTF-8: byte 0xE9 at offset 14; convert it, for example by"),
        ("book.txt", f"THE FOX\n\n{PROSE}\n{END}\n".encode(),
         f"is not a book (a .txt file without {END}): give --cleaning auto"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_book_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, message: str
) -> None:
    book = tmp_path / name
    book.write_bytes(data)
    with pytest.raises(CorpusError) as error:
        prepare(book, cleaning="tales", cache=tmp_path / "cache", progress=False)
    assert str(error.value).startswith(f"{book} {message}")
    assert main([str(book), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {book} {message}")


def test_with_a_given_validation_text_all_tales_are_trained_on(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(f"TALE {'X' * n}A\n\n{PROSE}{n}\n\n" for n in range(20)))
    (tmp_path / "other.txt").write_text(f"Once.\n{END}\nTwice.\n{END}\n")
    made = prepare(
        tmp_path / "book.txt", valid=tmp_path / "other.txt", cleaning="tales", cache=tmp_path / "cache", progress=False
    )
    assert (made.report["train"]["stories"], made.report["validation"]["stories"]) == (20, 2)
    assert held_out_name(made, "other.txt") == "other.txt"


def test_the_command_writes_both_parts_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books/fables.txt").write_text(BOOK, encoding="utf-8")
    assert main([str(tmp_path / "books"), str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["tales"] == {"train": 2, "valid": 1}
    assert (tmp_path / "out/valid.txt").read_text() == f"{LINE}\n{END}\n"
    with pytest.raises(SystemExit, match="2"):
        main([])
    before = (tmp_path / "out/train.txt").read_bytes()
    assert main([str(tmp_path / "books/fables.txt"), str(tmp_path / "out")]) == 2
    replaced = f"error: {tmp_path / 'out/train.txt'} exists, and would be replaced: give another folder, or delete it\n"
    assert capsys.readouterr().err.endswith(replaced)
    assert (tmp_path / "out/train.txt").read_bytes() == before
    assert main([str(tmp_path / "none.txt"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {tmp_path / 'none.txt'} is not a file or a folder"
