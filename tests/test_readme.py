"""The README is true: its figures are those of the runs, its commands parse, its front matter is valid."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import tell
from huggingface_hub import JobHardware, ModelCard
from huggingface_hub.cli.jobs import jobs_cli
from torch import nn
from torch.distributed.run import get_args_parser

import model
from docs import reading
from docs.tables import ORIGINAL, fill, results
from model.__main__ import build_parser
from model.decoder import OnnxDecoder, TorchDecoder
from model.graph import OnnxGraph
from model.sampling import USUAL
from model.vocab import Vocab
from page.words import TABLE
from train import report
from train.__main__ import configure, flags
from train.export.onnx import check_close, nats_per_character
from train.export.onnx_graph import build
from train.presets import PRESETS
from train.push import __main__ as push
from train.push.contents import check, front_matter, gather
from train.push.errors import HARDWARE
from train.report import TINYSTORIES, learned_tinystories, source
from train.text.corpus import NAMES
from train.text.openings import PROMPTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")} | {"README.md": README}
COMMANDS = [
    re.split(r"\s+# ", line)[0]
    for page in PAGES.values()
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if not kind and line.startswith((".venv/bin/python ", ".venv/bin/torchrun ", "make ", "git "))
]
ARTIFACTS = sorted(folder.name for folder in (ROOT / "artifacts").glob("[!.]*/"))


def test_tables_are_made_of_the_runs_own_figures() -> None:
    blocks = results(ROOT / "artifacts", ROOT / "docs" / "runs")
    for page in PAGES.values():
        here = {name: block for name, block in blocks.items() if f"<!-- {name} -->" in page}
        assert fill(page, here) == page, "python docs/tables.py renews the tables"
    assert "<!-- results -->" in README and all(f"<!-- {name} -->" in "".join(PAGES.values()) for name in blocks)
    assert all(f"artifacts/{name})" in blocks["results"] + blocks["voices"] for name in ARTIFACTS)
    assert all(f"`{name}`" in blocks["seeds"] for name in ORIGINAL)
    told = PAGES["results.md"].split("<!-- told -->")[1].split("<!-- /told -->")[0]
    assert re.findall(r"^\*\*(.+)\*\*$", told, re.MULTILINE) == [it.name for it in model.find(ROOT / "artifacts")[0]]
    assert told.count("> Once upon a time") == len(ARTIFACTS)


def test_front_matter_is_accepted_by_the_hub() -> None:
    check(gather())
    front = front_matter(README)
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\ngradio=={front['sdk_version']} " in lock, "a Space has the Gradio that the tests had"
    assert front["python_version"] == "3.12" and front["suggested_hardware"] == HARDWARE
    assert front["license"] == "mit" and front["datasets"] == ["roneneldan/TinyStories"]
    assert {front["title"]} == set(TABLE["title"].values()) and f"# {front['title']}\n" in README  # one name everywhere
    assert {"emoji", "models", "tags", "short_description"} <= front.keys()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """To a file, and to a heading of it where one is named."""
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGES[page]):
        path, _, heading = link.partition("#")
        target = folder / path if path else folder / page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", it.lower()).replace(" ", "-") for it in headings], link


def test_the_readme_is_short_and_shows_a_user_s_commands() -> None:
    assert len(README.splitlines()) <= 200
    cards = [model.load(ROOT / "artifacts" / name) for name in ARTIFACTS]
    for text in (*PAGES.values(), *(it.card for it in cards), *(it.metrics["command"] for it in cards)):
        assert "../shared" not in text
        for line in re.findall(r"^(?:python|torchrun) .*$", text, re.MULTILINE):
            raise AssertionError(f"{line}: a user's command begins with .venv/bin/")


@pytest.mark.parametrize("package", ["model", "page", "train"])
def test_the_annotated_tree_is_the_tree(package: str) -> None:
    tree = PAGES["code.md"].split(f"\n{package}/")[1]
    named = re.match(r".*\n((?:  \S+ .*\n)+)", tree)
    assert named
    there = {f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / package).glob("[!_]*")}
    there |= {"__main__.py"} if (ROOT / package / "__main__.py").exists() else set()
    assert {line.split()[0] for line in named[1].splitlines()} == there


@pytest.mark.parametrize("command", [c for c in COMMANDS if " -m train " in c or c.startswith("make train ARGS=")])
def test_a_training_command_parses(command: str) -> None:
    words = shlex.split(command)
    argv = shlex.split(words[2].removeprefix("ARGS=")) if words[0] == "make" else words[words.index("train") + 1 :]
    if "--help" not in argv:
        configure(flags().parse_args(argv))


def test_the_torchrun_commands_start_the_training() -> None:
    commands = [shlex.split(c) for c in COMMANDS if c.startswith(".venv/bin/torchrun ")]
    assert commands
    for words in commands:
        args = get_args_parser().parse_args(words[1:])
        assert args.module and args.training_script == "train" and args.nproc_per_node == "8"


@pytest.mark.parametrize("command", [c for c in COMMANDS if " -m train.push " in c])
def test_a_pushing_command_parses(command: str) -> None:
    push.build_parser().parse_args(shlex.split(command)[3:])


def test_the_rented_gpu_trains_and_pushes() -> None:
    command = shlex.split(re.search(r"^hf jobs run .*$", PAGES["training.md"], re.MULTILINE)[0])
    known = {option for parameter in jobs_cli.commands["run"].params for option in parameter.opts}
    assert {word for word in command[: command.index("bash")] if word.startswith("--")} <= known
    assert command[command.index("--flavor") + 1] in {hardware.value for hardware in JobHardware}
    steps = [shlex.split(step) for step in command[-1].split(" && ")]
    configure(flags().parse_args(next(step[3:] for step in steps if step[2:3] == ["train"])))
    push.build_parser().parse_args(next(step[3:] for step in steps if step[2:3] == ["train.push"]))
    assert ["make", ".venv/train.stamp"] in steps


@pytest.mark.parametrize("name", ["ci", "space", "gradio"])
def test_a_workflow_runs_what_is_here(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {c.split()[1] for c in commands if c.startswith("make ")} <= targets
    for command in [c for c in commands if " -m train.push " in c]:
        push.build_parser().parse_args(shlex.split(command.replace("$SPACE", "ann/stories"))[3:])
    assert workflow["permissions"] == {"contents": "read"}
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    # only the last step gets the token, and it comes from the secrets
    assert text.count("HF_TOKEN") == (2 + 1 if name == "space" else 0)
    assert name != "space" or job["steps"][-1]["env"]["HF_TOKEN"] == "${{ secrets.HF_TOKEN }}"


def test_a_change_of_any_file_of_a_space_starts_a_push() -> None:
    paths = yaml.safe_load((ROOT / ".github/workflows/space.yml").read_text())[True]["push"]["paths"]  # YAML's "on"
    held = {path.split("/")[0] + "/**" if "/" in path else path for path in gather(["pocket"]).files}
    held = {"requirements*.txt" if path == "requirements.txt" else path for path in held}  # it is made of both
    assert set(paths) == held


@pytest.mark.parametrize("command", [c for c in COMMANDS if " -m model " in c])
def test_a_telling_command_parses(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[3:])


def test_there_are_commands_to_test() -> None:
    assert sum(" -m model " in c or " -m train" in c or c.startswith("make ") for c in COMMANDS) >= 8
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {c.split()[1] for c in COMMANDS if c.startswith("make ")} <= targets


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_shipped_graph_agrees_with_pytorch(name: str) -> None:
    """At 32 bits the logits are the same; the shipped graph, perhaps at 8 bits, gives a story the same nats."""
    storyteller = model.load(ROOT / "artifacts" / name)
    exact = build(storyteller.config, storyteller.weights, bits=32)
    torch_decoder, talker = (TorchDecoder(storyteller.network) for _ in range(2))
    story = "".join(tell(talker, storyteller.vocab, "", replace(USUAL, length=200, seed=3)))
    told = [storyteller.vocab.start, *storyteller.vocab.encode(story)]
    other = OnnxDecoder(OnnxGraph(exact, storyteller.config, storyteller.folder))
    check_close(storyteller, torch_decoder, other, [told] * 6)  # raises ArtifactError
    assert storyteller.warning is None and isinstance(storyteller.decoder(), OnnxDecoder)
    exact_cost, shipped = (nats_per_character(it, [told]) for it in (torch_decoder, storyteller.decoder()))
    assert abs(shipped / exact_cost - 1) < 0.02


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_shipped_artifact_is_sound(name: str) -> None:
    """It loads (hashes, shapes, step counts), is causal and tells, and its card quotes its figures."""
    storyteller = model.load(ROOT / "artifacts" / name)
    metrics = storyteller.metrics
    assert metrics["parameters"] == sum(p.numel() for p in storyteller.network.parameters())
    if metrics["preset"] in ("pocket", "classic", "classic-onecycle"):
        assert metrics["parameters"] <= 211_922
    assert (ROOT / "artifacts" / name / "model.safetensors").stat().st_size <= 10 * 2**20
    assert f"| nats per character | {metrics['nats_per_character']:.4f} " in storyteller.card
    card = ModelCard.load(ROOT / "artifacts" / name / "README.md")
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        (kind, metrics[kind]) for kind in ("nats_per_character", "bits_per_character")
    ]
    assert metrics["commit"] and not metrics["commit"].endswith("+")
    ids = torch.tensor([storyteller.vocab.encode("Once upon a time there")])
    changed = ids.clone()
    changed[:, 12:] = storyteller.vocab.stoi["z"]
    torch.testing.assert_close(
        storyteller.network(changed)[:, :12], storyteller.network(ids)[:, :12], atol=1e-5, rtol=0
    )
    story = "".join(storyteller.tell("Once upon a time", model.Sampling(length=120, seed=1)))
    assert len(story.split()) > 10


def text_of(name: str, corpus: str | None = None, characters: int = 20_000_000, **more: object) -> dict:
    return {"name": name, "corpus": corpus, "train": {"characters": characters}} | more


def test_a_card_names_the_source_and_licence_of_its_text() -> None:
    """It goes by the corpus, not by the name of the folder."""
    stories = "million characters of TinyStories"
    licence = "(Eldan and Li, 2023), under CDLA-Sharing-1.0."
    own, replay = text_of("nottinystories/my.txt"), text_of("tinystories", "tinystories") | {"share": 0.5}
    base = {"name": "pocket", "data": "some/train.txt", "tinystories": True}
    tales = {"tales": {"books": [{"file": "b.txt"}]}}
    for data, more, here, missing in (
        (text_of("tinystories", "tinystories"), {}, [f"20.0 {stories}, 1% of its", licence], []),
        (text_of("a", "tinystories-v2", 70_000), {}, [f"0.1 {stories}, under 1% of its", licence], []),
        (own, {}, ["nottinystories/my.txt, 20.0 million characters; its licence is that of the text."], ["CDLA"]),
        (own, {"base": base}, ["was fine-tuned from pocket, which learned from some/train.txt.", licence], [stories]),
        (own | {"replay": replay}, {}, ["50% of the windows came from tinystories.", licence], [stories]),
        (text_of("x", "shakespeare"), {}, ["Tiny Shakespeare, 20.0 million", "public domain"], ["CDLA"]),
        (text_of("x", "panchatantra", **tales), {}, ["Tales out of b.txt: 20.0", "public domain"], ["CDLA"]),
        (text_of("panchatantra", **tales), {}, ["Their licence is that of the books."], ["public domain"]),
    ):
        said = source({"data": data} | more)
        assert all(part in said for part in here) and not any(part in said for part in missing), said
        assert learned_tinystories({"data": data} | more) == ("CDLA" in said)


def test_only_a_corpus_given_by_name_is_recorded_as_one() -> None:
    state = {"network": nn.Linear(2, 1), "log": [{"train": 1.0, "val": 1.0}], "steps": 1, "characters": 1, "best": None}
    state |= {"device": torch.device("cpu"), "ranks": SimpleNamespace(count=2), "commit": None, "base": None}
    state["step"] = SimpleNamespace(objective=SimpleNamespace(precision="fp32"))
    text = SimpleNamespace(report={"name": "x", "replay": {"name": "y"}}, vocab=Vocab.ascii(), train=None)
    named = replace(PRESETS["shakespeare"], replay="tinystories", replay_share=0.25)
    figures = {"nats_per_character": 1.0, "bits_per_character": 1.4427}
    made = report.metrics(SimpleNamespace(config=named, text=text, **state), "out", figures, 1.0, "")
    replay = {"name": "tinystories", "corpus": "tinystories", "share": 0.25}
    assert made["data"] == {"name": "shakespeare", "corpus": "shakespeare", "replay": replay}
    assert made["prompts"] == list(PROMPTS["shakespeare"]) and made["parameters"] == 3
    assert made["device"].startswith("2 x cpu") and "language" not in made
    own = replace(named, data="/home/ann/my/shakespeare.txt", replay=None)
    made = report.metrics(SimpleNamespace(config=own, text=text, **state), "out", figures, 1.0, "")
    assert made["data"] == text.report | {"name": "my/shakespeare.txt"} and "prompts" not in made
    assert set(TINYSTORIES) < set(NAMES) and PROMPTS.keys() < set(NAMES)


def test_nothing_tracked_is_too_big_for_a_plain_push() -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in names.split("\0") if name]
    assert [path.name for path in files if path.exists() and path.stat().st_size > 10 * 2**20] == []


def test_the_tables_of_questions_and_reading_are_those_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    questions = importlib.import_module("questions")
    page = PAGES["results.md"]
    assert fill(page, {"questions": questions.table(questions.outcomes())}) == page
    assert fill(page, {"reading": reading.table()}) == page
