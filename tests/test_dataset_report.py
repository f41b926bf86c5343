"""The dataset report: what is printed about a corpus before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.stories import stories, write_stories
from train.presets import PRESETS
from train.text.alphabet import Alphabet
from train.text.corpus import prepare
from train.text.dataset_report import dataset_report


def test_it_counts_stories_characters_and_what_cleaning_did(tmp_path: Path) -> None:
    path = write_stories(tmp_path / "own.txt", 200)
    text = path.read_text()
    path.write_text(
        text + "\u201cOh\u201d \u2014 said Ann\u00e9 to the \U0001f600.\n<|endoftext|>\n" * 2, encoding="utf-8"
    )
    config = replace(PRESETS["debug"], steps=50)
    made = prepare(path, cache=tmp_path / "cache", progress=False)
    lines = dataset_report(made, config)
    validation = sum(len(story) for story in stories(200)[19::20])
    rest = sum(map(len, stories(200))) - validation + 2 * len('"Oh" - said Anne to the .')
    assert lines[0] == (
        f"text: own, cleaned as story: 192 stories, {rest:,} characters to train on, "
        f"10 stories, {validation:,} characters to validate"
    )
    blanks = made.vocab.decode(made.train).count(" ")
    assert f"symbols occur: ' ' {blanks:,} " in lines[1]
    assert lines[3] == (
        "cleaning: 8 characters converted to ASCII, 2 dropped ('\U0001f600' 2), "
        "1 stories repeat an earlier one, 0 removed (in the validation text)"
    )
    assert lines[4:] == [
        f"warning: {len(made.valid):,} characters of validation text are few: the loss on it will fluctuate; "
        "give a file with --valid",
        f"warning: {len(made.train):,} characters are few for 29,952 parameters: give --dropout 0.2 and --patience 3 "
        "--eval-every 200, a smaller preset such as pocket, or a trained model with --init",
    ]


def test_it_warns_of_a_text_that_is_too_small_for_the_run(tmp_path: Path) -> None:
    made = prepare(write_stories(tmp_path / "own.txt", 200), cache=tmp_path / "cache", progress=False)
    config = replace(PRESETS["pocket"], steps=10_000, max_minutes=None)
    passes = 10_000 * 8 * 256 / len(made.train)
    assert dataset_report(made, config)[-2:] == [
        f"warning: 10,000 steps read the text {passes:,.0f} times: the model will memorise it; "
        "give fewer --steps, or --patience 3 --eval-every 200 to stop early",
        f"warning: {len(made.train):,} characters are few for 211,872 parameters: give --dropout 0.2 and "
        "--patience 3 --eval-every 200, a smaller preset such as pocket, or a trained model with --init",
    ]
    early = dataset_report(made, replace(config, patience=3))
    assert early[-1].endswith("the model will memorise it; give fewer --steps") and not any(
        "few for" in it for it in early
    )
    assert not any("few for" in line for line in dataset_report(made, replace(config, init="artifacts/pocket")))
    assert not any(
        "memorise" in it for it in dataset_report(made, replace(config, steps=int(1_000 * 40 / passes * 10)))
    )


def test_it_says_what_is_lost_and_what_was_read(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    code = "if x:\n\ty = 1\n    z = 2\n\n"
    russian = "\u0416\u0438\u043b\u0438-\u0431\u044b\u043b\u0438"
    lines = "".join(f"{story} {code} {russian}, {russian}, {code}<|endoftext|>\n" for story in stories(40))
    (folder / "train.txt").write_text(lines, encoding="utf-8")
    (folder / "valid.jsonl").write_text('{"text": "One."}\n{"text": null}\n')
    (folder / "notes.md").write_text("x")
    made = prepare(folder, vocab=Alphabet("ascii"), cache=tmp_path / "cache", progress=False)
    found = dataset_report(made, replace(PRESETS["debug"], steps=50))
    assert found[1] == "files: train.txt; to validate: valid.jsonl; skipped: notes.md"
    read = made.report["read"]["train"]
    squeezed = made.report["read"]["train"]["squeezed"]
    assert read["tabs"] == 80 and read["indented"] == 200 and squeezed >= 2 * 40 * 4
    assert (
        "80 tabs converted to blanks, "
        f"{squeezed:,} blanks and line ends removed, 1 records or stories without any text left out, "
    ) in next(line for line in found if line.startswith("cleaning: "))
    share = 16 * 40 / read["characters"]
    assert 0.05 < share < 0.1
    assert f"warning: texts: {share:.0%} of the characters are dropped (Cyrillic 640); --vocab text keeps them" in found
    assert (
        f"warning: 200 of {read['lines']:,} lines began with blanks, which were removed: "
        "give --cleaning verbatim to keep them"
    ) in found


def test_it_warns_of_validation_text_that_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "verse.txt").write_text("Tyger, tyger, burning bright, in the forests of the night.\n" * 200)
    made = prepare(tmp_path / "verse.txt", cache=tmp_path / "cache", progress=False)
    assert (
        "warning: 100% of the passages of the validation text stand in the training text too: "
        "the loss on it is too low; give another text with --valid"
    ) in dataset_report(made, replace(PRESETS["debug"], steps=50))


def test_a_name_with_a_line_end_stays_on_its_line(tmp_path: Path) -> None:
    made = prepare(write_stories(tmp_path / "a\nb.txt", 40), cache=tmp_path / "cache", progress=False)
    lines = dataset_report(made, replace(PRESETS["debug"], steps=50))
    assert lines[0].startswith("text: a b, cleaned as story: ") and not any("\n" in line for line in lines)
