"""What a model is measured on: known before the first step, and cleaned as the text that it was trained on."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import model
from model.parse import FILES, MIB
from model.vocab import END, Vocab
from tests.stories import write_stories
from train import loop, report
from train.checkpoint import CheckpointError
from train.evaluate import main as evaluate
from train.export.__main__ import main as export
from train.held_out import texts_of
from train.loop import checkpoint_path, train
from train.presets import PRESETS, TrainConfig
from train.text.corpus import CorpusError

DEBUG = replace(PRESETS["debug"], model=replace(PRESETS["debug"].model, context=32), steps=1, batch_size=4)
CLASSIC = replace(PRESETS["classic"], steps=1, eval_windows=1)
PLAY = "".join(f"SPEAKER {n % 7}:\n    {n} and  {n + 1}\n\n\nwent up.\n\n" for n in range(60))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short sample on the card: an untrained model fills a long one."""
    monkeypatch.setattr(report, "SAMPLE", replace(report.SAMPLE, length=20))


def recorded_and_measured(config: TrainConfig, folder: Path, held_out: str, capsys: pytest.CaptureFixture[str]) -> list:
    """The figures that a run records, and those of train.evaluate on the same text in a file of its own."""
    train(config, folder / "out", cache=folder / "cache")
    (folder / "held_out.txt").write_text(held_out)
    capsys.readouterr()
    assert evaluate([str(folder / "out"), "--data", str(folder / "held_out.txt"), "--record"]) == 0
    metrics = model.load(folder / "out").metrics
    assert metrics["others"]["held_out.txt"] == {
        name: value for name, value in json.loads(capsys.readouterr().out).items() if name != "artifact"
    }
    both = metrics["evaluation"], metrics["others"]["held_out.txt"]
    return [{name: figures[name] for name in ("stories", "symbols", "nats_per_character")} for figures in both]


def test_a_classic_model_is_not_scored_on_the_text_that_it_learns(tmp_path: Path) -> None:
    """Its corpus validates on a part of its own, so the stories of --valid are compared on their own."""
    text = write_stories(tmp_path / "text.txt", 40)
    shutil.copy(text, tmp_path / "copy.txt")
    config = replace(CLASSIC, data=str(text), valid=str(tmp_path / "copy.txt"))
    with pytest.raises(CorpusError) as error:
        train(config, tmp_path / "out", cache=tmp_path / "cache")
    found = re.fullmatch(r"(\d+)% of the passages of (.*) stand in text too: (.*)", str(error.value))
    assert int(found[1]) > 80 and found[2] == config.valid and found[3] == "choose another text to validate on"


ASCII = Vocab.ascii()


def test_what_is_dropped_from_a_text_to_measure_on_is_no_secret(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "valid.txt", tmp_path / "out"
    write_stories(tmp_path / "text.txt", 40)
    classic = replace(CLASSIC, data=str(tmp_path / "text.txt"), valid=str(text))
    russian = f"{text}: 78% of the characters are dropped (Cyrillic 140); the model learned "
    for content, message in (
        ("Жилибыл. " * 20, russian),
        (" \n\n ", f"{text} holds no "),
    ):
        text.write_text(content, encoding="utf-8")
        capsys.readouterr()
        assert evaluate([str(tiny_artifact), "--data", str(text)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
        with pytest.raises(CorpusError) as error:
            train(classic, out, cache=tmp_path / "cache")
        assert str(error.value).startswith(message)
    text.write_text(f"Anna ran home and told her mother. {END} Жили. {END} Tom ran.", encoding="utf-8")
    assert evaluate([str(tiny_artifact), "--data", str(text)]) == 0
    warning = f"warning: {text}: 8% of the characters are dropped (Cyrillic 4); the model learned ASCII\n"
    assert capsys.readouterr().err == warning
    (tmp_path / "folder").mkdir()
    write_stories(tmp_path / "folder/train.txt", 40)
    write_stories(tmp_path / "folder/valid.txt", 3, seed=5)
    assert evaluate([str(tiny_artifact), "--data", str(tmp_path / "folder")]) == 0
    assert json.loads(capsys.readouterr().out)["stories"] == 3


@pytest.mark.parametrize(
    "config", [DEBUG, replace(DEBUG, cleaning="story"), CLASSIC], ids=["verbatim", "story", "classic"]
)
def test_a_single_text_is_measured_as_the_run_measured_it(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its blanks, empty lines and final newline where the model has learned them, and as one text."""
    play = tmp_path / "play.txt"
    play.write_text(PLAY)
    whole = next(texts_of([play], {"cleaning": "verbatim" if config is DEBUG else config.cleaning, "train": {}}, ASCII))
    tenth = whole[len(whole) * 9 // 10 :]
    recorded, measured = recorded_and_measured(replace(config, data=str(play)), tmp_path, tenth, capsys)
    assert measured == recorded and recorded["stories"] == 1


def test_stories_kept_verbatim_are_measured_verbatim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stories = [f"One  {n}\n\n\n   two {n * n}." for n in range(40)]
    (tmp_path / "stories.txt").write_text(f"\n{END}\n".join(stories))
    config = replace(DEBUG, data=str(tmp_path / "stories.txt"), cleaning="verbatim")
    recorded, measured = recorded_and_measured(config, tmp_path, f"\n{END}\n".join(stories[19::20]), capsys)
    assert measured == recorded and recorded["stories"] == 2


def test_other_texts_are_cleaned_as_stories(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("A  b\n\nc\n")
    for data in ({}, {"cleaning": "story", "train": {"stories": 7}}):  # of an old or a foreign artifact; of stories
        assert list(texts_of([path], data, ASCII)) == ["A b\nc"]
    path.write_text(f"A  b\n{END}\nc\n")
    assert list(texts_of([path], {"cleaning": "classic", "train": {}}, ASCII)) == ["A b", "c"]
    assert list(texts_of([path], {"cleaning": "verbatim", "train": {}}, ASCII)) == ["A  b", "c"]


def test_a_graph_is_measured_on_the_text_as_the_model_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "play.txt").write_text(PLAY)
    train(replace(DEBUG, data=str(tmp_path / "play.txt")), tmp_path / "out", cache=tmp_path / "cache")
    given = []
    monkeypatch.setattr("train.export.__main__.export_onnx", lambda folder, sequences, bits: given.append(sequences))
    assert export([str(tmp_path / "out"), "--to", "onnx", "--data", str(tmp_path / "play.txt")]) == 0
    [[ids]] = given
    assert model.load(tmp_path / "out").vocab.decode(ids[1:-1]) == PLAY


NO_TEXT = "{}/{}.txt holds no text to score the model on: give another --valid, or omit it"
REFUSED = [
    (CLASSIC, {"valid": "missing.txt"}, "{}/missing.txt is not a file or a folder"),
    (CLASSIC, {"valid": "empty.txt"}, NO_TEXT.format("{}", "empty")),
    (CLASSIC, {"valid": "signs.txt"}, "{}/signs.txt: 100% of the characters are dropped (symbols 2); the model learned "
     "42 symbols: give a text that is like its own"),
    (CLASSIC, {"valid": "bad.txt"}, "{}/bad.txt is not UTF-8: byte 0xEF at offset 2; convert it, for example by "
     "`iconv -f WINDOWS-1252 -t UTF-8`"),
    (DEBUG, {"data": "short.txt", "final_windows": 1}, "the text to validate on (32 symbols) must be longer than the "
     "context (32): give a longer text, or a lower --context"),
    (DEBUG, {"data": "short.txt", "eval_windows": 1}, "the text to validate on (32 symbols) must be longer than the "
     "context (32): give a longer text, or a lower --context"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "changes", "message"), REFUSED)
def test_what_the_end_needs_is_read_before_the_first_step(
    config: TrainConfig, changes: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stories(tmp_path / "stories.txt", 40)
    for name, content in (("empty", b""), ("signs", b"{}"), ("bad", b"na\xefve"), ("short", b"a b c\n" * 50)):
        (tmp_path / f"{name}.txt").write_bytes(content)
    changes = {"data": "stories.txt"} | changes
    paths = {name: str(tmp_path / value) for name, value in changes.items() if isinstance(value, str)}
    monkeypatch.setattr(loop, "take_step", lambda *_: pytest.fail("a step was run"))
    with pytest.raises((CorpusError, ValueError)) as error:
        train(replace(config, **changes | paths), tmp_path / "out", cache=tmp_path / "cache")
    assert str(error.value) == message.format(tmp_path)
    assert not (tmp_path / "out").exists() and not checkpoint_path(tmp_path / "out").parent.exists()


def test_weights_too_large_for_their_file_are_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stories(tmp_path / "stories.txt", 40)
    monkeypatch.setattr(loop, "take_step", lambda *_: pytest.fail("a step was run"))
    monkeypatch.setitem(FILES, "model.safetensors", MIB + 70_000)  # it has 29,952 parameters
    config = replace(DEBUG, data=str(tmp_path / "stories.txt"), weights="fp32")
    with pytest.raises(ValueError) as error:
        train(config, tmp_path / "out", cache=tmp_path / "cache")
    fix = "give a lower --width or --layers, or --weights fp16"
    assert str(error.value) == f"the weights would take 119,808 bytes; at most 70,000 can be saved: {fix}"


def test_a_missing_validation_text_is_refused_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.text.corpus.named_files", lambda *_: pytest.fail("a corpus was downloaded"))
    with pytest.raises(CorpusError, match=r"/missing\.txt is not a file or a folder$"):
        train(replace(CLASSIC, valid=str(tmp_path / "missing.txt")), tmp_path / "out", cache=tmp_path / "cache")


def test_files_that_go_during_the_run_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base, the teacher, the text, its cache and the validation file: the end uses what the start has read."""
    write_stories(tmp_path / "stories.txt", 40)
    write_stories(tmp_path / "valid.txt", 3, seed=5)
    config = replace(CLASSIC, data=str(tmp_path / "stories.txt"), valid=str(tmp_path / "valid.txt"))
    train(config, tmp_path / "base", cache=tmp_path / "cache")
    base = model.load(tmp_path / "base")
    from_base = {"init": str(tmp_path / "base"), "teacher": str(tmp_path / "base"), "model": base.config}
    config, whole = replace(config, **from_base, final_windows=1), {}
    train(config, tmp_path / "undisturbed", cache=tmp_path / "cache")
    taken = loop.take_step

    def take_step(*arguments: object) -> None:
        taken(*arguments)
        shutil.rmtree(tmp_path / "base")
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "valid.txt").unlink()
        (tmp_path / "stories.txt").unlink()

    monkeypatch.setattr(loop, "take_step", take_step)
    train(config, tmp_path / "out", cache=tmp_path / "cache")
    assert "missing" not in capsys.readouterr().err
    for name in ("out", "undisturbed"):
        figures = model.load(tmp_path / name).metrics
        del figures["evaluation"]["seconds"]
        whole[name] = [figures[part] for part in ("evaluation", "windows", "base", "teacher")]
    assert whole["out"] == whole["undisturbed"]
    assert whole["out"][2]["weights_sha256"] == base.hashes["model.safetensors"]


def test_a_measurement_that_fails_does_not_cost_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("not\nenough memory")

    write_stories(tmp_path / "stories.txt", 40)
    config = replace(DEBUG, data=str(tmp_path / "stories.txt"))
    train(config, tmp_path / "base", cache=tmp_path / "cache")
    capsys.readouterr()
    config = replace(config, init=str(tmp_path / "base"), final_windows=1)
    for name in ("finish.evaluation", "finish.windows_nats", "report.sample", "export.formats.export_onnx"):
        monkeypatch.setattr(f"train.{name}", fail)
    train(config, tmp_path / "out", cache=tmp_path / "cache")
    because = "is missing, because it failed (not enough memory); the model is written without it"
    missing = "the final score", "the score by --final-windows", "the score of base", "a sample", "model.onnx"
    assert [line for line in capsys.readouterr().err.splitlines() if "failed" in line] == [
        f"warning: {what} {because}" for what in missing
    ]
    storyteller = model.load(tmp_path / "out")
    figures = storyteller.metrics["evaluation"]
    assert figures["nats_per_character"] == storyteller.log[-1]["val"]
    assert figures["data"] == "stories (the part held out), at the last evaluation of the training"
    assert storyteller.metrics["base"].keys() == {"name", "data", "tinystories", "weights_sha256"}
    assert "windows" not in storyteller.metrics and "| fine-tuned from | base (" in storyteller.card
    assert train(config, tmp_path / "out", resume=True)  # it is finished


def test_a_base_that_was_replaced_is_not_gone_on_with(tmp_path: Path) -> None:
    write_stories(tmp_path / "stories.txt", 40)
    config = replace(DEBUG, data=str(tmp_path / "stories.txt"))
    train(config, tmp_path / "base", cache=tmp_path / "cache")
    tuned = replace(config, init=str(tmp_path / "base"), steps=10**6)
    assert not train(tuned, tmp_path / "out", cache=tmp_path / "cache", stop_after=1e-9)
    train(replace(config, seed=2), tmp_path / "base", cache=tmp_path / "cache")
    with pytest.raises(CheckpointError) as error:
        train(tuned, tmp_path / "out", cache=tmp_path / "cache", resume=True)
    path = checkpoint_path(tmp_path / "out")
    assert str(error.value) == f"{path} was made with another init in {tmp_path / 'base'}: delete it to start again"
