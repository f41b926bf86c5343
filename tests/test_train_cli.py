"""python -m train and python -m train.evaluate as a user types them, including mistakes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import model
from model.network import build
from model.parse import FIX
from model.sampling import USUAL
from tests.stories import write_stories
from train.__main__ import configure, default_out, flags, main, reproducing
from train.evaluate import TOLD
from train.evaluate import main as evaluate
from train.export.__main__ import main as export
from train.objective import precision_of
from train.presets import PRESETS
from train.text.tales import main as cut_tales

SETTINGS = ", ".join(f"{name.replace('_', '-')} {getattr(USUAL, name):g}" for name in TOLD)

ROOT = Path(__file__).parent.parent


def settings(*argv: str):
    return configure(flags().parse_args(argv))


def test_without_arguments_it_prints_one_screen_of_help_without_torch() -> None:
    code = "import sys, train.__main__ as t; t.main([]); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(shown.splitlines()) <= 32
    assert all(name in shown for name in PRESETS)


def test_where_only_the_page_is_installed_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="2"):
        main(["--preset", "debug"])
    install = ".venv/bin/python -m pip install -r requirements.txt"
    assert capsys.readouterr() == ("", f"error: torch is not installed: {install}\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "poket"], "preset (poket) must be one of debug, classic, classic-onecycle, pocket, storyteller, "
         "storyteller-full, shakespeare, tune, panchatantra; did you mean pocket?"),
        (["--step", "5"], "unknown flag --step; did you mean --steps?"),
        (["--batchsize", "5"], "unknown flag --batchsize; did you mean --batch-size?"),
        (["--frobnicate"], "unknown flag --frobnicate"),
        (["--device", "cdua"], "device ('cdua') must be auto, cpu, cuda, cuda:N or mps; did you mean cuda?"),
        (["--architecture", "gtp"], "architecture ('gtp') must be one of gpt, classic; did you mean gpt?"),
        (["--precision", "bf61"], "precision ('bf61') must be one of fp32, bf16, fp16; did you mean bf16?"),
        (["--steps", "0"], "steps (0) must be at least 1"),
        (["--steps", "ten"], "argument --steps: invalid int value: 'ten'"),
        (["--steps", "5", "--lr", "nan"], "lr (nan) must be a finite number above 0"),
        (["--heads", "3"], "width (64) must be a multiple of heads (3)"),
        (["--cooldown", "0.9", "--warmup", "0.2"], "warmup + cooldown (1.1) must be at most 1, the whole run"),
        (["--language", "German"], "language ('German') must be a code of BCP 47, such as de or zh-Hans"),
        (["--stop-after", "0"], "--stop-after (0) must be above 0, in minutes"),
        (["--max-minutes", "none"], "a run needs an end: give --steps or --max-minutes"),
        (["--seed", "-1"], "seed (-1) must be from 0 to 2147483647"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_in_one_line_with_the_fix(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_every_setting_has_a_flag_of_its_own_name() -> None:
    config = settings("--preset", "pocket", "--layers", "2", "--context", "64", "--batch-size", "3", "--no-compile",
                      "--precision", "fp32", "--weight-decay", "0.25", "--valid", "v.txt")  # fmt: skip
    assert (config.model.layers, config.model.context, config.batch_size, config.compile) == (2, 64, 3, False)
    assert (config.precision, config.weight_decay, config.valid, config.preset) == ("fp32", 0.25, "v.txt", "pocket")
    assert config.model.width == PRESETS["pocket"].model.width


def test_a_window_divides_the_context() -> None:
    assert settings("--preset", "pocket").window == 128
    assert settings("--preset", "pocket", "--context", "192").window is None
    assert settings("--preset", "pocket", "--context", "192", "--window", "64").window == 64
    with pytest.raises(ValueError, match=r"^window \(100\) must divide the context \(256\)$"):
        settings("--preset", "pocket", "--window", "100")


def test_flags_may_have_underscores_instead_of_hyphens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "missing.txt"), "--batch_size", "2", "--eval_every=5"]) == 2
    assert "missing.txt" in capsys.readouterr().err


def test_steps_replace_a_budget_and_a_budget_replaces_steps() -> None:
    assert (settings("--preset", "pocket", "--steps", "7").max_minutes) is None
    assert settings("--preset", "classic", "--max-minutes", "2").steps is None
    both = settings("--preset", "classic", "--max-minutes", "2", "--steps", "9")
    assert (both.steps, both.max_minutes) == (9, 2)
    assert settings("--preset", "pocket", "--hidden", "none").model.hidden is None


def test_the_recorded_command_leaves_out_the_pauses() -> None:
    argv = ["--preset", "debug", "--stop-after", "5", "--data", "a b.txt", "--stop-after=2", "--resume", "--replace"]
    assert reproducing(argv) == ".venv/bin/python -m train --preset debug --data 'a b.txt'"


def test_the_recorded_command_says_nothing_of_the_folders_around() -> None:
    """It is published on the card."""
    argv = [
        "--data",
        "/home/ann/my texts/tales.txt",
        "--valid=../held out/valid.txt",
        "--out",
        "~/models/",
        "--default",
    ]
    assert reproducing(argv) == ".venv/bin/python -m train --data tales.txt --valid=valid.txt --out models"
    assert reproducing(["--data", "texts/tales.txt"]) == ".venv/bin/python -m train --data texts/tales.txt"


def test_the_recorded_command_names_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4"), ("GROUP_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert reproducing(["--seed", "2"]) == ".venv/bin/torchrun --nnodes 2 --nproc_per_node 4 -m train --seed 2"


def test_pocket_fits_the_budget_of_the_original() -> None:
    assert sum(p.numel() for p in build(PRESETS["pocket"].model).parameters()) <= 211_922


def test_train_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_stories(tmp_path / "stories.txt", 80)
    out = tmp_path / "out"
    argv = ["--preset", "debug", "--data", str(text), "--context", "32", "--steps", "4", "--out", str(out)]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "step 0: train loss 4." in shown and ", val loss 4." in shown and ", lr 0.00500000\n" in shown
    metrics = json.loads((out / "metrics.json").read_text())
    nats, story = (
        metrics["nats_per_character"],
        re.search(r"```\n(Once upon a time.*?)\n```", model.load(out).card, re.S)[1],
    )
    assert f"choose\namong {math.exp(nats):.1f} equally likely ones. Without training it would be among 97;" in shown
    assert "".join(story.split()) in "".join(shown.split())
    assert shown.endswith(
        f"Tell another:   .venv/bin/python -m model 'Once upon a time' --model {out} --seed 7\n"
        f"Open the page:  .venv/bin/python app.py --artifacts {tmp_path}\n"
    )
    assert metrics["evaluation"]["sha256"] == hashlib.sha256(text.read_bytes()).hexdigest()
    assert metrics["command"].startswith(".venv/bin/python -m train --preset debug --data stories.txt ")

    held_out = write_stories(tmp_path / "held_out.txt", 7, seed=5)
    assert evaluate([str(out), "--data", str(held_out)]) == 0
    full = json.loads(capsys.readouterr().out)
    assert evaluate([str(out), "--data", str(held_out), "--first", "3"]) == 0
    quick = json.loads(capsys.readouterr().out)
    assert (full["stories"], quick["stories"]) == (7, 3)
    assert quick["symbols"] < full["symbols"]
    assert {"artifact", "nats_per_character", "bits_per_character", "data"} <= full.keys()


def test_a_text_of_the_user_s_has_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "my.tales").mkdir()
    for data, out in (
        ("tinystories", "artifacts/pocket"),
        ("texts/my stories.txt", "artifacts/my-stories"),
        (str(tmp_path / "my.tales"), "artifacts/my.tales"),
        ("पंचतंत्र (१).txt", "artifacts/पंचतंत्र-१"),
        (".hidden.txt", "artifacts/hidden"),
        ("default.txt", "artifacts/own"),  # the file of that name chooses the page's model
        ("...", "artifacts/own"),
    ):
        assert str(default_out(settings("--preset", "pocket", "--data", data))) == out


def test_several_texts_can_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are one corpus, and a resumed run takes them in the same order."""
    monkeypatch.chdir(tmp_path)
    write_stories(tmp_path / "a b.txt", 20)
    write_stories(tmp_path / "c.txt", 20, seed=2)
    assert settings("--data", "a b.txt", "c.txt").data == ("a b.txt", "c.txt")
    assert settings("--data", "c.txt").data == "c.txt"
    argv = ["--preset", "debug", "--context", "32", "--steps", "2000", "--stop-after", "0.001", "--data"]
    assert main([*argv, "a b.txt", "c.txt"]) == 0
    assert (tmp_path / "artifacts/.a-b-and-1-more.run").exists()
    assert main([*argv, "a b.txt", "c.txt", "--resume"]) == 0
    capsys.readouterr()
    out = ["--out", "artifacts/a-b-and-1-more", "--resume"]
    assert main([*argv, "c.txt", *out]) == 2
    assert "was made with data ['a b.txt', 'c.txt'], this run has c.txt: give --data 'a b.txt' c.txt, or delete" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit, match="2"):
        main([*argv, "c.txt", ""])
    assert capsys.readouterr().err == "error: --data is empty: give a value, or omit the flag\n"


def test_a_model_of_another_text_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_stories(tmp_path / "mine.txt", 40)
    write_stories(tmp_path / "other.txt", 40, seed=2)
    argv = ["--preset", "debug", "--context", "32", "--steps", "1"]
    assert main([*argv, "--data", "mine.txt", "--default"]) == 0
    assert [it.name for it in model.find(tmp_path / "artifacts")[0]] == ["mine"]
    assert (tmp_path / "artifacts/default").read_text() == "mine\n"
    before = (tmp_path / "artifacts/mine/config.json").read_bytes()
    capsys.readouterr()

    other = [*argv, "--data", "other.txt", "--out", "artifacts/mine"]
    assert main(other) == 2
    fix = "choose another --out, or give --replace"
    assert capsys.readouterr() == (
        "",
        f"error: artifacts/mine holds a model of another text (mine.txt, not other.txt); {fix}\n",
    )
    assert (tmp_path / "artifacts/mine/config.json").read_bytes() == before
    assert main([*argv, "--data", "./mine.txt"]) == 0  # the same text again
    assert main([*other, "--replace"]) == 0
    assert model.load("artifacts/mine").metrics["data"]["name"] == "other.txt"
    (tmp_path / "folder").mkdir()
    write_stories(tmp_path / "folder/other.txt", 40, seed=3)
    write_stories(tmp_path / "tinystories", 40)  # a file that is called like a corpus
    for text in ("folder/other.txt", "./tinystories"):
        assert main([*argv, "--data", text, "--out", "artifacts/mine"]) == 2
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/README.md").write_text("mine")
    capsys.readouterr()
    assert main([*argv, "--data", "mine.txt", "--out", "notes"]) == 2
    assert capsys.readouterr().err == f"error: notes is not an artifact, and its README.md would be replaced; {fix}\n"
    assert (tmp_path / "notes/README.md").read_text() == "mine"
    (tmp_path / "artifacts/mine/stoi.json").unlink()
    capsys.readouterr()
    assert main(other) == 2
    assert capsys.readouterr().err == (
        f"error: artifacts/mine cannot be read as an artifact (artifacts/mine/stoi.json is missing; {FIX}); {fix}\n"
    )


def test_file_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an archive from another system may leave them. They are printed and recorded with replacement characters."""
    text = write_stories(tmp_path / os.fsdecode(b"caf\xe9.txt"), 40)
    out = tmp_path / os.fsdecode(b"d\xe9j\xe0")
    argv = ["--preset", "debug", "--data", str(text), "--context", "32", "--steps", "1", "--out", str(out)]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert f"\n{tmp_path}/d\ufffdj\ufffd: " in shown
    assert "\nwarning: it has learned almost nothing; give it more --steps or --max-minutes\n" in shown
    [storyteller], _ = model.find(tmp_path)
    assert storyteller.name == storyteller.metrics["name"] == "d\ufffdj\ufffd"
    assert storyteller.metrics["data"]["sources"][0]["file"] == "caf\ufffd.txt"
    assert main([*argv, "--resume"]) == main(argv) == 0  # it is the same text


def test_what_the_judge_found_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, held_out = write_stories(tmp_path / "stories.txt", 80), write_stories(tmp_path / "held_out.txt", 4, seed=5)
    out = tmp_path / "out"
    assert main(["--preset", "debug", "--data", str(text), "--steps", "60", "--context", "32", "--out", str(out)]) == 0
    before = model.load(out)
    capsys.readouterr()
    command = [str(out), "--data", str(held_out), "--train", str(text), "--stories", "2"]
    assert evaluate([*command, "--record"]) == 0
    line = json.loads(capsys.readouterr().out)
    kept = model.load(out)
    assert kept.metrics == before.metrics | {"stories": {key: line[key] for key in line if key != "artifact"}}
    assert f"\n2 told stories ({SETTINGS}) beside 2 of held_out.txt:\n" in kept.card
    assert kept.hashes["model.onnx"] == before.hashes["model.onnx"] and kept.warning is None

    assert evaluate([str(out), "--data", str(held_out), "--first", "3", "--record"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert model.load(out).metrics["others"] == {"held_out.txt": {key: line[key] for key in line if key != "artifact"}}
    assert evaluate([str(out), "--data", str(held_out), "--first", "3", "--check"]) == 0
    assert json.loads(capsys.readouterr().out)["recorded"] == line["nats_per_character"]
    # a check skips a model without figures for the text, and fails if there is none to check
    assert evaluate([str(out), "--data", str(text), "--check"]) == 2
    assert capsys.readouterr().err == (
        "out not checked: its recorded figures are for stories (the part held out)\n"
        "error: no artifact has recorded figures for stories.txt\n"
    )
    (tmp_path / "empty.txt").write_text("")
    for changed, message in (
        (["--stories", "5"], f"{held_out} holds 4 stories, fewer than --stories 5: give a lower --stories"),
        (
            ["--train", str(tmp_path / "empty.txt")],
            f"{tmp_path / 'empty.txt'} holds no words: give the text that the artifact was trained on",
        ),
    ):
        assert evaluate([*command, *changed]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


def test_evaluate_checks_what_was_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, held_out = write_stories(tmp_path / "stories.txt", 40), write_stories(tmp_path / "held_out.txt", 7, seed=5)
    out = tmp_path / "out"
    settings = ["--preset", "debug", "--context", "32", "--steps", "2", "--out", str(out)]
    assert main([*settings, "--data", str(text), "--valid", str(held_out)]) == 0
    checked = [str(out), "--data", str(held_out), "--check"]
    capsys.readouterr()
    assert evaluate(checked) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["recorded"] == line["nats_per_character"]
    assert evaluate([*checked, "--first", "3"]) == 2
    assert capsys.readouterr().err == (
        "error: out has no recorded figure for 3 stories of held_out.txt: it has figures for 7\n"
    )
    monkeypatch.setattr("train.evaluate.recorded_nats", lambda *figures: line["recorded"] + 0.0021)
    assert evaluate(checked) == 1
    assert capsys.readouterr().err == "differs from the recorded figure by more than 0.002: out\n"


def test_told_stories_are_judged_beside_real_ones(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, held_out = write_stories(tmp_path / "stories.txt", 30), write_stories(tmp_path / "held_out.txt", 4, seed=5)
    command = [str(tiny_artifact), "--data", str(held_out), "--stories", "3", "--temperature", "1"]
    assert evaluate([*command, "--train", str(text)]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["sampling"] == {name: getattr(replace(USUAL, temperature=1.0), name) for name in TOLD}
    assert line["told"].keys() == line["held_out"].keys()
    assert (line["told"]["stories"], line["held_out"]["ended"]) == (3, 1.0)
    assert line["told"]["known_words"] < line["held_out"]["known_words"]
    with pytest.raises(SystemExit):
        evaluate(command)
    assert "--train FILE, the text that the artifact was trained on" in capsys.readouterr().err


def test_evaluate_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([str(tmp_path / "none"), "--data", "x.txt"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path / "none") in error and len(error.splitlines()) == 1


def test_evaluate_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate(["x", "--data", "y", "--fist", "2"])
    assert capsys.readouterr().err == "error: unknown flag --fist; did you mean --first?\n"
    for device in ("cud", "cuda:99"):
        assert evaluate([str(tmp_path), "--data", "y", "--device", device]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: device ({device}) is not available: ") and len(error.splitlines()) == 1


def test_tensorboard_gets_the_curves(tmp_path: Path) -> None:
    text = write_stories(tmp_path / "stories.txt", 80)
    argv = ["--preset", "debug", "--data", str(text), "--context", "32", "--steps", "2", "--track", "tensorboard"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / ".out.run" / "tensorboard").glob("events.*"))


def test_a_missing_tracker_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_stories(tmp_path / "stories.txt", 80)
    argv = ["--preset", "debug", "--data", str(text), "--context", "32", "--track", "trackio"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 2
    install = ".venv/bin/python -m pip install trackio"
    assert capsys.readouterr().err == f"error: --track trackio needs the package trackio: {install}\n"


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"storyteller-full"}))  # 20 MB: this needs Git LFS
def test_every_preset_fits_a_plain_push(preset: str) -> None:
    config = PRESETS[preset]
    numbers = sum(p.numel() for p in build(config.model).parameters())
    assert numbers * (2 if config.weights == "fp16" else 4) < 10 * 2**20


def test_init_takes_shape_and_vocabulary_of_the_artifact(
    tiny_artifact: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = settings("--preset", "panchatantra", "--init", str(tiny_artifact), "--dropout", "0.2")
    assert (config.model.width, config.model.loops, config.model.context, config.model.dropout) == (32, 2, 32, 0.2)
    assert config.init == str(tiny_artifact) and config.window is None
    # Fine-tuning needs lower rates than training from scratch, with any preset.
    for argv, (lr, muon_lr) in (
        (["--preset", "pocket", "--init", str(tiny_artifact)], (0.001, 0.004)),
        (["--preset", "pocket", "--init", str(tiny_artifact), "--muon-lr", "0.01"], (0.001, 0.01)),
        (["--preset", "tune", "--init", str(tiny_artifact)], (0.001, 0.004)),
        (["--preset", "panchatantra", "--init", "none"], (0.004, 0.02)),
    ):
        config = settings(*argv)
        assert (config.lr, config.muon_lr) == (lr, muon_lr)
        assert config.cooldown == (0.8 if config.init else 0.6)
    for argv, message in (
        (["--init", str(tiny_artifact), "--width", "64", "--layers", "3"],
         f"layers, width cannot be set: --init {tiny_artifact} determines it"),
        (["--init", ""], "--init is empty: give a value, or omit the flag"),
        (["--replay-share", "0.3"], "--replay-share needs --replay: give the text to replay"),
        (["--init", str(tmp_path / "none")],
         f"{tmp_path / 'none'} is not a folder; give one that holds a config.json, such as artifacts/pocket"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main(["--preset", "pocket", *argv])
        assert capsys.readouterr().err == f"error: {message}\n"


def test_presets_change_on_a_gpu_and_flags_override_them() -> None:
    """On a GPU, windows have one size, which is compiled once."""
    for name, preset in PRESETS.items():
        there = configure(flags().parse_args(["--preset", name]), "cuda")
        assert there.window is None and there.lr == preset.lr and there.muon_lr == preset.muon_lr
    pocket = configure(flags().parse_args(["--preset", "pocket"]), "cuda")
    assert (pocket.batch_size, pocket.model.context) == (64, 256)
    assert configure(flags().parse_args(["--preset", "pocket"])).batch_size == 8
    given = configure(flags().parse_args(["--preset", "pocket", "--batch-size", "4", "--window", "64"]), "cuda")
    assert (given.batch_size, given.window) == (4, 64)


def test_a_gpu_without_bfloat16_takes_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    wanted = {name: replace(PRESETS["debug"], precision=name) for name in ("fp32", "bf16", "fp16")}
    assert [precision_of(config, cuda) for config in wanted.values()] == ["fp32", "fp16", "fp16"]
    assert [precision_of(config, cpu) for config in wanted.values()] == ["fp32", "bf16", "bf16"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert [precision_of(config, cuda) for config in wanted.values()] == ["fp32", "bf16", "fp16"]


def test_the_plan_for_a_gpu_fits_its_flags_and_its_time() -> None:
    """Each line is NAME SECONDS COMMAND. Lines that begin with # are for a second call."""
    lines = (ROOT / "docs/gpu-plan").read_text().splitlines()
    stages = [match.groups() for line in lines if (match := re.match(r"(# )?(\w+) (\d+) (python3 .*)", line))]
    assert len(stages) == 6 and sum(int(seconds) for later, _, seconds, _ in stages if not later) <= 560
    for _, name, seconds, command in stages:
        words = shlex.split(command)
        assert words[:2] == ["python3", "-m"] and words[2] in ("pytest", "train", "train.speed")
        if words[2] == "train":
            config = configure(flags().parse_args(words[3:]), "cuda")
            assert 60 * config.max_minutes < int(seconds) - 75 and config.preset == name
        elif words[2] == "train.speed":
            known, others = flags().parse_known_args(words[3:])
            assert known.device == "cuda" and others in ([], ["--until", "1.137"])


def test_every_path_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quoted or behind =, where the shell leaves the ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_stories(tmp_path / "stories.txt", 40)
    write_stories(tmp_path / "valid.txt", 4, seed=5)
    argv = ["--preset", "debug", "--data", "~/stories.txt", "--valid=~/valid.txt", "--context", "32", "--steps", "1"]
    assert main([*argv, "--out=~/x"]) == 0
    metrics = model.load(tmp_path / "x").metrics
    assert metrics["evaluation"]["data"] == "valid.txt" and not (tmp_path / "~").exists()
    assert metrics["command"].endswith("--data stories.txt --valid=valid.txt --context 32 --steps 1 --out=x")
    chosen = ("--init", "~/x", "--replay=~/stories.txt", "--teacher", "~/x", "--data", "tinystories")
    config = settings("--preset", "pocket", *chosen)
    assert (config.init, config.replay, config.teacher) == (f"{tmp_path}/x", f"{tmp_path}/stories.txt", f"{tmp_path}/x")
    assert (config.data, settings("--preset", "tune", "--init", "none").init) == ("tinystories", None)
    assert evaluate(["~/x", "--data=~/valid.txt", "--record"]) == 0
    assert "valid.txt" in model.load(tmp_path / "x").metrics["others"]
    assert export(["~/x", "--to", "gguf", "~/y"]) == 0
    (tmp_path / "book.txt").write_text("")
    assert cut_tales(["~/book.txt", "~/tales"]) == 2
    assert capsys.readouterr().err.endswith(
        f"error: {tmp_path}/book.txt: 0 tales found, but training and validation need two: give more books\n"
    )
    with pytest.raises(SystemExit, match="2"):
        main(["--data", "~nobody-at-all/x.txt"])
    fix = "names no user's home folder: give the whole path, or ./~nobody-at-all/x.txt"
    assert capsys.readouterr().err == f"error: argument --data: (~nobody-at-all/x.txt) {fix}\n"
