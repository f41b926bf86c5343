"""Preparing corpora: exact streams, splits, limits, the cache and every error message."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model.vocab import END, Vocab
from train.text import corpus
from train.text.alphabet import Alphabet
from train.text.corpus import Corpus, CorpusError, prepare, read_stories, with_replay

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, which then holds the default cache too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, *stories: str) -> str:
    Path(path).write_text("".join(f"{story}\n{END}\n" for story in stories), encoding="utf-8")
    return path


def text(made: Corpus, part: str) -> str:
    """A stream as text, with | for the end mark."""
    return "".join("|" if i == made.vocab.end else made.vocab.itos[i] for i in getattr(made, part))


def test_a_text_in_given_symbols_has_a_cache_of_its_own(here: Path) -> None:
    """The same file with the classic cleaning: in its own symbols, in those of a gpt, and in fewer."""
    path = write("own.txt", "Tom ran.", "Ann sat!")
    own = prepare(path, cleaning="classic", progress=False)
    gpt = prepare(path, cleaning="classic", vocab=Vocab.ascii(), progress=False)
    few = prepare(path, cleaning="classic", vocab=Vocab(list(" .Tanomr")), progress=False)
    assert own.vocab == Vocab.from_text("Tom ran. Ann sat!") and gpt.vocab == Vocab.ascii()
    assert text(own, "train") + text(own, "valid") == "Tom ran. Ann sat!"
    assert text(gpt, "train") + text(gpt, "valid") == "|Tom ran. Ann sa||t!|"
    assert text(few, "train") + text(few, "valid") == "Tom ran. nn a"
    assert few.report["dropped_characters"] == {"!": 1, "A": 1, "s": 1, "t": 1}
    assert len({made.report["fingerprint"] for made in (own, gpt, few)}) == 3


ASCII = Alphabet("ascii")


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.glob(".cache/corpus/*") if p.name != "sources.json"]


def refused(*args: object, **kwargs: object) -> str:
    with pytest.raises(CorpusError) as error:
        prepare(*args, **kwargs)
    return str(error.value)


def test_streams_are_end_story_end(here: Path) -> None:
    write("train.txt", "One day.\n\n  Two  blanks \n.", " “Hi,” he said…", "donâ€™t")
    write("valid.txt", "Last\tone.")
    made = prepare("train.txt", valid="valid.txt")
    assert text(made, "train") == '|One day.\nTwo blanks\n.|"Hi," he said...|don\'t|'
    assert text(made, "valid") == "|Last one.|"
    assert made.train.dtype == np.uint8
    assert isinstance(made.train, np.memmap)
    assert made.vocab == Vocab.ascii()
    assert list(made.valid[:3]) == [96, Vocab.ascii().stoi["L"], Vocab.ascii().stoi["a"]]


def test_the_report_counts_everything(here: Path) -> None:
    write("train.txt", "One day, 好好.", "Two.", "one Two", "Two!", "THREE", "")
    write("valid.txt", "Three?")
    made = prepare("train.txt", valid="valid.txt", vocab=ASCII)
    assert json.loads(json.dumps(made.report)) == made.report
    assert made.report["train"] == {
        "stories": 4,
        "characters": 25,
        "symbols": 30,
        "removed_as_in_validation": 1,
        "repeated_stories": 1,
    }
    assert made.report["validation"] == {"stories": 1, "characters": 6, "symbols": 8}
    assert made.report["dropped_characters"] == {"好": 2}
    assert (made.report["cleaning"], made.report["limit"]) == ("story", None)
    assert made.report["sources"][0]["file"] == "train.txt"
    assert made.report["sources"][0]["bytes"] == Path("train.txt").stat().st_size
    assert len(made.train) == 30


def test_training_stories_in_the_validation_text_are_removed(here: Path) -> None:
    write("train.txt", "The cat sat.", "the CAT -- sat!", "The cats at", "The cat sat on.")
    write("valid.txt", '"The cat," sat')
    made = prepare("train.txt", valid="valid.txt")
    assert text(made, "train") == "|The cat sat on.|"
    assert made.report["train"]["removed_as_in_validation"] == 3


def test_replayed_stories_in_the_validation_text_are_removed(here: Path) -> None:
    write("own.txt", "A dog ran.", "A dog sat.")
    write("valid.txt", "The cat sat.", "A bird sang.")
    write("replay.txt", "The CAT sat!", "A cow ate.", "A horse slept.", "a bird, sang")
    own = prepare("own.txt", valid="valid.txt")
    for _ in range(2):  # prepared, then from the cache
        other = prepare("replay.txt", vocab=own.vocab, exclude=own)
        assert text(other, "train") == "|A cow ate.|A horse slept.|"
        assert other.report["train"]["removed_as_in_validation"] == 1  # its own text validates on the last one
    assert text(prepare("replay.txt", vocab=own.vocab), "train") == "|The CAT sat!|A cow ate.|A horse slept.|"
    made = with_replay(own, other)
    assert made.report["fingerprint"] != own.report["fingerprint"] and made.replay is other.train

    Path("play.txt").write_text("To be or not to be.\n" * 9)
    Path("verse.txt").write_text("Tyger, tyger, burning bright.\n" * 9)
    with pytest.raises(CorpusError, match=r"^play.txt is the validation text: choose another text to train on$"):
        prepare("play.txt", exclude=prepare("verse.txt", valid="play.txt"))
    assert len(prepare("play.txt", exclude=prepare("play.txt")).train)  # its train.bin lacks its held-out part


def test_every_20th_story_is_for_validation(here: Path) -> None:
    write("a.txt", *(f"story {i}" for i in range(1, 46)), "STORY 40.")
    made = prepare("a.txt")
    assert text(made, "valid") == "|story 20|story 40|"
    assert made.report["train"]["stories"] == 43
    assert made.report["train"]["removed_as_in_validation"] == 1
    assert text(made, "train").startswith("|story 1|story 2|")


def test_of_few_stories_the_last_is_for_validation(here: Path) -> None:
    made = prepare(write("a.txt", "one", "two", "three"))
    assert (text(made, "train"), text(made, "valid")) == ("|one|two|", "|three|")


def test_a_limit_takes_the_first_stories(here: Path) -> None:
    write("a.txt", *(f"story {i}" for i in range(1, 100)))
    assert text(prepare("a.txt", stories=3), "train") == "|story 1|story 2|"
    made = prepare("a.txt", valid=write("valid.txt", "x", "y", "z"), stories=2)
    assert (text(made, "train"), text(made, "valid")) == ("|story 1|story 2|", "|x|y|z|")
    assert made.report["limit"] == 2


def test_of_a_single_text_the_last_tenth_is_for_validation(here: Path) -> None:
    play = "To  be,\n\n\tor not.\nTo be é.\n" * 10
    Path("play.txt").write_text(play, encoding="utf-8")
    made = prepare("play.txt", vocab=ASCII)
    plain = play.replace("\t", " ").replace("é", "e")
    cut = len(plain) * 9 // 10
    assert (text(made, "train"), text(made, "valid")) == (f"|{plain[:cut]}|", f"|{plain[cut:]}|")
    assert made.report["cleaning"] == "verbatim"
    squeezed = prepare("play.txt", cleaning="story", vocab=ASCII)
    assert text(squeezed, "train").startswith("|To be,\nor not.\nTo be e.\nTo be,\n")
    Path("valid.txt").write_text("The end", encoding="utf-8")
    made = prepare("play.txt", valid="valid.txt", vocab=ASCII)
    assert (text(made, "train"), text(made, "valid")) == (f"|{plain}|", "|The end|")


def test_classic_joins_ascii_text_and_splits_at_nine_tenths(here: Path) -> None:
    made = prepare(write("a.txt", "One é day.\n\nSo “it”\tis.", "Two", "", "Z"), cleaning="classic")
    joined = "One  day.  So it is. Two Z"
    assert text(made, "train") + text(made, "valid") == joined
    assert len(made.train) == int(0.9 * len(joined))
    assert made.vocab == Vocab.from_text(joined)
    assert made.vocab.end is None
    assert made.report["dropped_characters"] == {"é": 1, "“": 1, "”": 1}
    made = prepare("a.txt", valid=write("valid.txt", "Xy"), cleaning="classic")
    assert (text(made, "train"), text(made, "valid")) == (joined, "Xy")
    assert made.vocab == Vocab.from_text(joined + "Xy")


def test_all_formats_give_the_same_streams(here: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stories = [f"Story {i}: “it”\n\nends." for i in range(45)]
    write("a.txt", *stories)
    lines = [json.dumps({"id": 1, "text": story}) for story in stories]
    Path("a.jsonl").write_text("\n\n".join(lines), encoding="utf-8-sig")  # as some Windows editors save it
    pq.write_table(pa.table({"text": [None, *stories, ""], "n": range(47)}), "a.parquet")
    pq.write_table(pa.table({"text": pa.array(stories).dictionary_encode()}), "b.parquet")
    Path("folder/deep").mkdir(parents=True)
    write("folder/1.txt", *stories[:20])
    Path("folder/2.txt").write_text(stories[20], encoding="utf-8")
    Path("folder/deep/3.jsonl").write_text("\n".join(lines[21:]), encoding="utf-8")
    for ignored in ("ignored.csv", ".2.txt", ".git/2.txt"):  # a table that has no column `text`
        Path("folder", ignored).parent.mkdir(exist_ok=True)
        Path("folder", ignored).write_bytes(b"\xff")
    expected = prepare("a.txt")
    assert text(expected, "train").startswith('|Story 0: "it"\nends.|')
    for data in ("a.jsonl", "a.parquet", "b.parquet", "folder"):
        made = prepare(data)
        assert made.name == data.split(".")[0]
        assert np.array_equal(made.train, expected.train)
        assert np.array_equal(made.valid, expected.valid)
        assert list(read_stories(data)) == list(read_stories("a.txt"))


@pytest.mark.parametrize("size", [1, 7, 13, 14, 64])
def test_the_chunk_size_does_not_change_a_stream(here: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    write("a.txt", "One é.", "", "“Two” lines\r\n\r\nof it", "Three", "Four")
    Path("play.txt").write_text("To be,\r\n“or” not\n\n to  be é.", encoding="utf-8")
    monkeypatch.setattr("train.text.reading._CHUNK", size)
    assert text(prepare("a.txt", vocab=ASCII), "train") == '|One e.|"Two" lines\nof it|Three|'
    assert text(prepare("a.txt"), "train") == "|One é.|“Two” lines\nof it|Three|"
    made = prepare("play.txt", vocab=ASCII)
    assert text(made, "train")[1:-1] + text(made, "valid")[1:-1] == 'To be,\n"or" not\n\n to  be e.'


@pytest.mark.parametrize("size", [1, 14, 64, 4096])
def test_an_end_mark_parts_stories_wherever_it_stands(here: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("train.text.reading._CHUNK", size)
    Path("a.txt").write_bytes(f"One.\r\n{END}\r\nTwo.\n{END} \nThree.{END}\nFour.{END}{END}Five.\n{END} Six.".encode())
    stories = ["One.", "Two.", "Three.", "Four.", "Five.", "Six."]
    assert list(read_stories("a.txt")) == stories
    assert text(prepare("a.txt"), "train") == "|One.|Two.|Three.|Four.|Five.|"
    Path("a.jsonl").write_text("\n".join(json.dumps({"text": both}) for both in ("A." + END, f"B.\n{END}\nC.", END)))
    assert list(read_stories("a.jsonl")) == ["A.", "B.", "C."]
    assert prepare("a.jsonl").report["read"]["train"]["empty"] == 1


def test_marks_are_no_symbols_to_learn(here: Path) -> None:
    for cleaning in ("story", "verbatim", "classic"):
        made = prepare(write("a.txt", *(f"One {i}. {END} Two {i}." for i in range(30))), cleaning=cleaning)
        assert "<" not in text(made, "train") + text(made, "valid")


def test_the_cache_is_reused_until_something_changes(here: Path) -> None:
    def inode(**settings: object) -> int:
        return os.stat(prepare("a.txt", **settings).train.filename).st_ino

    write("a.txt", "one", "two", "three")
    first = inode()
    Path("a.txt").touch()
    assert inode() == first
    assert inode(cleaning="story") == first  # auto chose the same
    assert len({first, inode(cleaning="verbatim"), inode(stories=2), inode(valid=write("v.txt", "x"))}) == 4
    write("a.txt", "one", "two", "threE")
    assert text(prepare("a.txt"), "valid") == "|threE|"
    assert inode(cache="elsewhere") not in (first, inode())


def test_a_damaged_cache_is_prepared_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.txt", "one", "two", "three")
    folder = Path(prepare("a.txt").train.filename).parent.relative_to(here)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = json.loads(whole["corpus.json"])
    flipped = bytes([whole["train.bin"][0] ^ 1]) + whole["train.bin"][1:]
    foreign = {key: value for key, value in report.items() if key != "sha256"} | {"fingerprint": "0" * 16}
    foreign["sha256"] = hashlib.sha256(json.dumps(foreign).encode()).hexdigest()
    for name, damage in [
        ("train.bin", b"\x60"),
        ("valid.bin", b""),
        ("train.bin", flipped),
        ("corpus.json", whole["corpus.json"].replace(b'"stories": 2', b'"stories": 3')),
        ("corpus.json", json.dumps(foreign).encode()),
        ("corpus.json", b"{}"),
        ("corpus.json", b"3"),
        ("corpus.json", b"[]"),
        ("corpus.json", b"{"),
        ("corpus.json", b"\xff"),
        ("valid.bin", None),
    ]:
        (folder / name).write_bytes(damage) if damage is not None else (folder / name).unlink()
        made = prepare("a.txt")
        assert (text(made, "train"), text(made, "valid")) == ("|one|two|", "|three|")
        assert capsys.readouterr().err == f"{folder} is damaged: preparing it again\n"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_leftovers_of_a_killed_preparation_are_removed_after_a_day(here: Path) -> None:
    """Until then another process may still be working on them."""
    write("a.txt", "one", "two", "three")
    for name in ("dead", "alive"):
        Path(f".cache/corpus/.preparing-{name}/corpus").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86_400
    os.utime(".cache/corpus/.preparing-dead", (two_days_ago, two_days_ago))
    made = prepare("a.txt")
    assert sorted(leftovers(here)) == [".preparing-alive", Path(made.train.filename).parent.name]


def test_two_processes_may_prepare_the_same(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.txt", "one", "two", "three")
    original = corpus.write_stories

    def overtaken(*args: object) -> dict:
        monkeypatch.setattr(corpus, "write_stories", original)
        prepare("a.txt")
        return original(*args)

    monkeypatch.setattr(corpus, "write_stories", overtaken)
    assert text(prepare("a.txt"), "train") == "|one|two|"
    assert len(leftovers(here)) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux that is always full")
@pytest.mark.parametrize("cleaning", ["story", "classic"])
def test_a_full_disk_leaves_nothing_behind(here: Path, monkeypatch: pytest.MonkeyPatch, cleaning: str) -> None:
    writer = "write_text" if cleaning == "classic" else "write_stories"
    original = getattr(corpus, writer)

    def full(plan: object, folder: Path, tally: object) -> dict:
        (folder / "train.bin").symlink_to("/dev/full")
        return original(plan, folder, tally)

    write("a.txt", *("word " * 10_000 for _ in range(3)), "last")
    monkeypatch.setattr(corpus, writer, full)
    fix = "free some space, or put the cache on another disk"
    assert refused("a.txt", cleaning=cleaning) == f"no space left to prepare a.txt in .cache/corpus: {fix}"
    assert leftovers(here) == []


def test_bytes_that_are_not_utf8_are_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.text.reading._CHUNK", 16)
    fix = "convert it, for example by `iconv -f WINDOWS-1252 -t UTF-8`"
    raw = f"A story of caf\u00e9s\n{END}\nThe second".encode()
    Path("a.txt").write_bytes(raw + b" one \x93is\x94")
    assert refused("a.txt") == f"a.txt is not UTF-8: byte 0x93 at offset {len(raw) + 5}; {fix}"
    Path("b.txt").write_bytes(b"line one\n" * 5 + b"na\xefve")
    assert refused("b.txt") == f"b.txt is not UTF-8: byte 0xEF at offset 47; {fix}"
    Path("c.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    assert refused("c.jsonl") == f"c.jsonl is not UTF-8: byte 0xFF at offset 24; {fix}"
    assert leftovers(here) == []


def test_what_cannot_be_a_corpus_is_refused(here: Path) -> None:
    Path("empty").mkdir()
    for name, content in [
        ("empty.txt", ""),
        ("blank.txt", " \n\t\n"),
        ("marks.txt", f"\n{END}\n{END}\n"),
        ("one.txt", f"one\n{END}\n"),
        ("text.txt", "a single text"),
        ("data.csv", "a,b"),
        ("notes.md", "text"),
        ("broken.jsonl", '{"text": "a"}\n{"text": "b"'),
        ("other.jsonl", '{"text": "a"}\n{"story": "b"}\n'),
        ("number.jsonl", '{"text": 1}\n'),
        ("list.jsonl", "[]\n"),
        ("deep.jsonl", "[" * 100_000),
        ("fake.parquet", "text"),
    ]:
        Path(name).write_text(content, encoding="utf-8")
    write("two.txt", "Same!", "same")
    one_story = f"holds one story, but training and validation need at least two: separate stories by lines {END}"
    suffixes = ".txt, .jsonl, .csv or .parquet"
    names = "tinystories, tinystories-v2, shakespeare, panchatantra"
    for data, message in {
        "nothing.txt": "there is no corpus, file or folder named nothing.txt: "
        f"give {names}, or the path of a {suffixes} file or a folder of them",
        "shakespear": "there is no corpus, file or folder named shakespear: "
        f"give {names}, or the path of a {suffixes} file or a folder of them; did you mean shakespeare?",
        "data.csv": "data.csv must have a column `text`; its columns: a, b",
        "notes.md": f"notes.md must end in {suffixes}",
        "empty": f"empty holds no {suffixes} file",
        "empty.txt": "empty.txt holds no text",
        "blank.txt": "blank.txt holds no text",
        "marks.txt": "marks.txt holds no text",
        "one.txt": f"one.txt {one_story}",
        "two.txt": "every story of two.txt is in the validation text too: none is left to train on",
        "broken.jsonl": "broken.jsonl, line 2 is not JSON: Expecting ',' delimiter: line 1 column 13 (char 12)",
        "other.jsonl": 'other.jsonl, line 2 must be an object with a string "text"',
        "number.jsonl": 'number.jsonl, line 1 must be an object with a string "text"',
        "list.jsonl": 'list.jsonl, line 1 must be an object with a string "text"',
    }.items():
        assert refused(data) == message
    assert refused("fake.parquet").startswith("fake.parquet cannot be read as parquet: ")
    assert refused("deep.jsonl").startswith("deep.jsonl, line 1 is not JSON: maximum recursion depth exceeded")
    for settings, message in [
        ({"valid": "empty.txt"}, "empty.txt holds no text"),
        ({"valid": "gone.txt"}, "gone.txt is not a file or a folder"),
        ({"stories": 1}, f"two.txt {one_story}"),
    ]:
        assert refused("two.txt", **settings) == message
    message = f"text.txt is a single text: to use 5 of its stories, separate them by {END}"
    assert refused("text.txt", stories=5) == message
    assert leftovers(here) == []


def test_parquet_needs_a_text_column_and_pyarrow(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"story": ["a"]}), "a.parquet")
    assert refused("a.parquet") == "a.parquet must have a column `text` of strings; its columns: story (string)"
    pq.write_table(pa.table({"text": [1, 2]}), "b.parquet")
    assert refused("b.parquet") == "b.parquet must have a column `text` of strings; its columns: text (int64)"
    pq.write_table(pa.table({"text": ["a" * 1000]}), "c.parquet", compression="none", use_dictionary=False)
    raw = Path("c.parquet").read_bytes()
    Path("c.parquet").write_bytes(raw[:4] + b"\xff" * 20 + raw[24:])  # the header of its page
    message = refused("c.parquet")
    assert message.startswith("c.parquet cannot be read as parquet: ")
    assert "\n" not in message
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert (
        refused("a.parquet")
        == "a.parquet: reading .parquet files needs pyarrow: .venv/bin/python -m pip install pyarrow"
    )


def test_a_large_corpus_takes_little_memory_and_time(here: Path) -> None:
    """In its own process: far less memory than the file, and no network library. The bound has a fivefold margin."""
    plain = "Once upon a time there was a little car. It went to the park. " * 12
    ten = f"{plain}\n{END}\n" * 9 + f"“Beep,” it said. {plain}\n{END}\n"
    size = 64
    Path("big.txt").write_text(ten * (size * 1_000_000 // len(ten)), encoding="utf-8")
    script = """
import sys, time
from docs.bench import peak_memory
from train.text.corpus import prepare
before = peak_memory()
prepare("big.txt", valid="valid.txt")
print(peak_memory() - before, time.process_time(), "huggingface_hub" in sys.modules, "torch" in sys.modules)
"""
    write("valid.txt", "Another story.")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    memory, seconds, *imported = done.stdout.split()
    assert done.stderr == ""  # the progress bar is for terminals only
    assert imported == ["False", "False"]
    assert float(memory) < size
    assert size / float(seconds) > 4  # megabytes per second on one core


HINDI = "एक बार की बात है, एक छोटा लड़का था। "
ENGLISH = "Once upon a time there was a boy. "
CLASSIC = "classic keeps ASCII only: give another text, or --cleaning story and a preset such as pocket"


@pytest.mark.parametrize("cleaning", ["story", "verbatim", "classic"])
def test_a_text_that_is_mostly_dropped_is_refused(here: Path, cleaning: str) -> None:
    write("a.txt", *(f"{HINDI}{i}" for i in range(30)))
    assert refused("a.txt", cleaning=cleaning, vocab=ASCII) == (
        "a.txt: 67% of the characters are dropped (Devanagari 750, symbols 30); "
        + (CLASSIC if cleaning == "classic" else "give --vocab text")
    )
    Path("b.txt").write_text("从前有一个小男孩。他玩。" * 9, encoding="utf-8")
    assert refused("b.txt", vocab=ASCII).startswith(
        "b.txt: 100% of the characters are dropped (Chinese 90, symbols 18); "
    )
    write("c.txt", "Жил. " * 9)
    write("d.txt", *(f"{ENGLISH}{i}" for i in range(30)))
    assert refused("d.txt", valid="c.txt") == (
        "c.txt: 59% of the characters are dropped (Cyrillic 27); "
        "the text to train on has other characters: give another text to validate on"
    )
    assert refused("d.txt", valid=write("e.txt", HINDI)).startswith("e.txt: 70% of the characters are dropped (Devana")
    few = Vocab(["\n", " ", "a", END])
    message = "the model's vocabulary has 4 symbols: train without it, or give another text"
    assert refused("d.txt", vocab=few).endswith(message)
    assert leftovers(here) == []


def test_accents_and_marks_of_any_kind_are_no_loss(here: Path) -> None:
    """Decomposed accents are half the characters here, and are dropped: their letters stay."""
    made = prepare(write("a.txt", *("e\u0301" * (i + 9) for i in range(20))), vocab=ASCII)
    assert made.report["dropped_characters"] == {} and text(made, "valid") == f"|{'e' * 28}|"


def test_stories_are_compared_by_what_they_are(here: Path) -> None:
    """By the letters, digits and vowel signs that the model learns: in ASCII, the names in other scripts are gone."""
    names = "राम", "रमा", "सीता", "Łódź", "Lodz", "LÓDZ!", "Ло́дзь", "лодзь", "лодзи", "😀", "😂"
    write("a.txt", *(f"{ENGLISH}{name}" for name in names))
    write("v.txt", ENGLISH + "лодзь")
    made = prepare("a.txt", valid="v.txt")
    assert made.report["train"]["repeated_stories"] == 3  # Lodz, LÓDZ! and the smile that is no letter
    assert made.report["train"]["removed_as_in_validation"] == 2  # one of them has the accent of a dictionary
    other = prepare(write("b.txt", f"{ENGLISH}Лодзь", f"{ENGLISH}Омск", "last"), exclude=made)
    assert other.report["train"]["removed_as_in_validation"] == 1
    made = prepare("a.txt", valid="v.txt", vocab=ASCII)
    assert (made.report["train"]["stories"], made.report["train"]["repeated_stories"]) == (3, 2)  # all are Lodz
    made = prepare(write("c.txt", *["😀" * 2, "😂" * 2, "😀" * 2, *(f"{ENGLISH}{i}" for i in range(9))]), vocab=ASCII)
    assert made.report["read"]["train"]["empty"] == 3


def test_several_texts_are_one_corpus(here: Path) -> None:
    write("a.txt", "one", "two")
    Path("b.jsonl").write_text('{"text": "three"}\n{"text": "four"}\n')
    Path("folder").mkdir()
    write("folder/valid.txt", "five")
    Path("folder/c.csv").write_text("text\nsix\n")
    made = prepare(["a.txt", "b.jsonl", "folder"])
    assert (text(made, "train"), text(made, "valid")) == ("|one|two|three|four|six|", "|five|")
    assert made.name == "a-and-2-more"
    assert made.files == "files: a.txt, b.jsonl, folder/c.csv; to validate: folder/valid.txt"
    assert prepare("a.txt").files == ""
    assert text(prepare(["a.txt", "b.jsonl"]), "valid") == "|four|"
    assert prepare(["a.txt"]).name == "a"
    alone = "tinystories is a corpus of its own: give it alone, or train on it too with --replay tinystories"
    assert refused(["a.txt", "tinystories"]) == alone
    assert refused(["a.txt", "gone.txt"]).startswith("there is no corpus, file or folder named gone.txt: give ")


def test_a_single_text_is_not_validated_on_what_it_holds(here: Path) -> None:
    play = " ".join(f"word{i * i * 7919 % 10_007}" for i in range(3_000))
    Path("play.txt").write_text(play)
    message = "play.txt is the validation text: choose another text to train on"
    for name, held_out in {"copy.txt": play, "tail.txt": play[-9_000:].upper().replace(" ", "\n")}.items():
        Path(name).write_text(held_out)
        found = "100% of the passages of tail.txt stand in play.txt too: choose another text to validate on"
        for cleaning in ("auto", "classic"):
            assert refused("play.txt", valid=name, cleaning=cleaning) == (message if name == "copy.txt" else found)
    Path("mixed.txt").write_text(play[:2_000] + " ".join(f"other{i}" for i in range(1_000)))
    assert 0.1 < prepare("play.txt", valid="mixed.txt").report["in_both"] < 0.3
    assert prepare("play.txt").report["in_both"] < 0.05


def test_validation_text_is_found_within_longer_texts(here: Path) -> None:
    """A book and some of its stories, either way round, and the chapters of a book."""
    tales = [" ".join(f"word{i * j * 7919 % 10_007}" for j in range(60)) for i in range(1, 60)]
    Path("book.txt").write_text("\n".join(tales))
    Path("tail.txt").write_text("\n".join(tales[40:]))
    write("part.txt", *tales[40:])
    Path("chapters").mkdir()
    for i in range(5):
        Path(f"chapters/{i}.txt").write_text("\n".join(tales[i * 12 : i * 12 + 12]))
    for data, valid in (("book.txt", "part.txt"), ("part.txt", "tail.txt"), ("chapters", "part.txt")):
        message = refused(data, valid=valid)
        assert message.startswith("100% of the passages of " + valid), message
    assert prepare("part.txt", valid=write("other.txt", *tales[:20])).report["in_both"] == 0


def test_verbatim_stories_keep_their_indentation(here: Path) -> None:
    made = prepare(write("a.txt", "\n  \n    if x:\n        y\n  ", "z", "last"), cleaning="verbatim")
    assert text(made, "train") == "|    if x:\n        y|z|"


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "я" * 125 + ".txt", "a\nb|`c`.txt", "\udcff.txt"])
def test_any_name_of_a_file_can_be_prepared(here: Path, name: str) -> None:
    made = prepare(write(name, "one", "two", "three"))
    assert text(made, "train") == "|one|two|" and text(prepare(name), "valid") == "|three|"
    assert made.name.encode() and json.dumps(made.report)
