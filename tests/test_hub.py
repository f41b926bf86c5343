"""Storytellers on the Hub: they are loaded by name, checked, cached and published, as users of the Hub expect."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from conftest import GPT, parts
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError
from serving import ROOT, save_tiny
from stand_in_hub import ADDRESS, Account, Fault, Hub

import model
from model import ArtifactError, Sampling, Storyteller
from model.artifacts import file_bytes, save
from model.hub import upload
from model.vocab import Vocab
from train import report
from train.push.contents import check, gather

TOKEN = "hf_" + "Poiuytrewq" * 3 + "Lkjh"  # belongs to nobody
STORY = Sampling(length=60, seed=7)


@pytest.fixture(autouse=True)
def account(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Account:
    """The account that is logged in, with an empty cache."""
    hub.accounts[TOKEN] = Account("ann")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub.accounts[TOKEN]


def publish(folder: Path, name: str, message: str = "Upload tiny", **options: object) -> str:
    return upload(file_bytes(folder), name, commit_message=message, **options)


@pytest.fixture
def published(hub: Hub, tiny_onnx: Path) -> dict[str, bytes]:
    """The files of ann/tiny."""
    publish(tiny_onnx, "ann/tiny")
    return hub.repos["models", "ann/tiny"].files()


def story(storyteller: Storyteller) -> str:
    return "".join(storyteller.tell("Once", STORY))


def refusal(name: str, **options: object) -> str:
    with pytest.raises(ArtifactError) as error:
        Storyteller.from_pretrained(name, **options)
    return str(error.value)


def test_the_published_files_are_those_of_the_artifact(hub: Hub, published: dict[str, bytes], tiny_onnx: Path) -> None:
    there = {path.name: path.read_bytes() for path in tiny_onnx.iterdir()}
    assert {name: data for name, data in published.items() if name != ".gitattributes"} == there
    history = hub.repos["models", "ann/tiny"].history()
    assert [commit.title for commit in history] == ["Upload tiny", "initial commit"]


def test_a_name_is_loaded_from_the_hub_and_tells_the_same(published: dict[str, bytes], tiny_onnx: Path) -> None:
    for storyteller in (model.load("ann/tiny"), Storyteller.from_pretrained("ann/tiny")):
        assert (storyteller.name, storyteller.repo_id, storyteller.warning) == ("tiny", "ann/tiny", None)
        assert story(storyteller) == story(model.load(tiny_onnx))


def test_the_cache_works_without_the_hub(hub: Hub, published: dict[str, bytes], tmp_path: Path) -> None:
    expected = story(model.load("ann/tiny"))
    count = len(hub.requests)
    again = Storyteller.from_pretrained("ann/tiny", local_files_only=True)
    assert story(again) == expected and len(hub.requests) == count
    elsewhere = Storyteller.from_pretrained("ann/tiny", cache_dir=tmp_path / "elsewhere")
    assert elsewhere.folder.is_relative_to(tmp_path / "elsewhere")


def test_a_retrained_model_replaces_the_old_one_with_its_graph(
    hub: Hub, published: dict[str, bytes], tmp_path: Path
) -> None:
    old = story(model.load("ann/tiny"))
    first = hub.repos["models", "ann/tiny"].at().oid
    save_tiny(tmp_path / "new", nats=1.0, ends=False)
    url = publish(tmp_path / "new", "ann/tiny", "Train longer")
    repo = hub.repos["models", "ann/tiny"]
    assert url == f"{ADDRESS}/ann/tiny/commit/{repo.at().oid}"
    assert repo.at().title == "Train longer" and "model.onnx" not in repo.files()
    assert story(model.load("ann/tiny")) == story(model.load(tmp_path / "new")) != old
    assert story(Storyteller.from_pretrained("ann/tiny", revision=first)) == old


def test_a_pull_request_and_a_private_model(
    hub: Hub, published: dict[str, bytes], tiny_artifact: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    url = publish(tiny_artifact, "ann/tiny", create_pr=True)
    assert url == f"{ADDRESS}/ann/tiny/discussions/1"
    assert hub.repos["models", "ann/tiny"].files() == published
    publish(tiny_onnx, "ann/hidden", private=True, token=TOKEN)
    assert story(model.load("ann/hidden"))
    assert Storyteller.from_pretrained("ann/hidden", token=TOKEN).name == "hidden"
    message = refusal("ann/hidden", token=False, cache_dir=tmp_path / "empty")
    assert message == (
        "ann/hidden is neither a folder here nor a model on the Hub that you may read (401): check the name; "
        "if it is private, log in with `hf auth login`, or set HF_TOKEN"
    )


def test_a_concurrent_change_of_a_model_is_not_overwritten(
    hub: Hub, published: dict[str, bytes], tiny_artifact: Path
) -> None:
    hub.before_commit = lambda repo: repo.put({"README.md": b"theirs"})
    with pytest.raises(HfHubHTTPError) as error:
        publish(tiny_artifact, "ann/tiny")
    assert error.value.response.status_code == 412
    assert hub.repos["models", "ann/tiny"].files() == published | {"README.md": b"theirs"}


@pytest.mark.parametrize(("path", "data", "message"), [
    ("model.safetensors", b"torn", "is not the file that config.json was saved with (its SHA-256 differs)"),
    ("config.json", b'{"model_type": "gpt2"}', "has format None, and this program reads format 1"),
    ("metrics.json", None, "is missing; restore the folder from where it came, or train the model again"),
])  # fmt: skip
def test_every_downloaded_file_is_checked(
    hub: Hub, published: dict[str, bytes], path: str, data: bytes | None, message: str
) -> None:
    hub.repos["models", "ann/tiny"].put({path: data})
    assert message in refusal("ann/tiny") and path in refusal("ann/tiny")


def test_failures_to_load_say_why(hub: Hub, published: dict[str, bytes], monkeypatch, tmp_path: Path) -> None:
    nothing = "is neither a folder here nor a model on the Hub that you may read"
    assert refusal("ann/none").startswith(f"ann/none {nothing} (404): check the name")
    assert refusal("ann/tiny", revision="v9").startswith(f"ann/tiny {nothing} at revision v9 (404)")
    hub.create("models", "ann/other")
    assert refusal("ann/other") == ("ann/other on the Hub is not a storyteller: it has no config.json of this program")
    assert refusal("ann/tiny", local_files_only=True) == (
        "ann/tiny could not be downloaded: it is not in the cache; check the network and try again"
    )
    hub.faults.append(Fault("^GET /api/models/ann/tiny", 503))
    assert refusal("ann/tiny") == (
        "ann/tiny could not be downloaded: the Hub has trouble (503); check the network and try again"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()
    count = len(hub.requests)
    assert refusal("artifacts/poket").startswith("artifacts/poket is not a folder; give one that holds a config.json")
    assert refusal("pocket").startswith("pocket is not a folder")
    assert len(hub.requests) == count, "a missing folder must not cause a request to the Hub"


def test_without_a_network_it_says_so(tmp_path: Path) -> None:
    code = "import model\ntry: model.load('ann/tiny')\nexcept model.ArtifactError as error: print(error)"
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_CACHE": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.stdout == (
        "ann/tiny could not be downloaded: the Hub cannot be reached; check the network and try again\n"
    )


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ValueError("Unknown scheme for proxy URL"), ImportError("'socksio' is not installed")):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
        assert refusal("ann/tiny") == f"ann/tiny could not be downloaded: {error}; check the network and try again"


def test_the_command_line_tells_from_the_hub(published: dict[str, bytes], tiny_onnx: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model", "Once", "--length", "60", "--seed", "7", "--model"]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache")}
    hub, here = (
        subprocess.run([*command, name], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        for name in ("ann/tiny", str(tiny_onnx))
    )
    assert hub.stdout == here.stdout and hub.stderr.startswith("ann/tiny: ")


def test_huggingface_hub_is_imported_only_when_needed() -> None:
    code = (
        "import sys, model; model.Storyteller; model.load('artifacts/pocket'); print('huggingface_hub' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize("name", ["pocket", "classic", "classic-onecycle"])
def test_the_hub_can_read_the_results_in_a_card(name: str) -> None:
    card = ModelCard.load(ROOT / "artifacts" / name / "README.md")
    metrics = model.load(ROOT / "artifacts" / name).metrics
    results = {result.metric_type: result for result in card.data.eval_results}
    assert card.data.model_name == name
    assert results["nats_per_character"].metric_value == metrics["nats_per_character"]
    assert results["bits_per_character"].metric_value == metrics["bits_per_character"]
    assert {result.task_type for result in results.values()} == {"text-generation"}
    assert card.data.license == "mit" and card.data.pipeline_tag == "text-generation"


def test_a_model_of_another_language_is_published_with_its_card(hub: Hub, tmp_path: Path) -> None:
    """The Hub wants a language without country and script, and sees no other as one."""
    folder, vocab = tmp_path / "山", Vocab.of_counts(Counter("从前有座山。"))
    config = replace(GPT, vocab_size=len(vocab))
    known = model.load(ROOT / "artifacts" / "pocket").metrics | {"name": "山"}
    for language, front in (("zh-Hans", ("zh", ["zh-Hans"])), ("no", ("no", None)), (None, (None, None))):
        made = parts(config) | {"vocab": vocab, "metrics": known | {"language": language, "steps": 2}}
        save(folder, **made | {"card": report.card(made["metrics"], config, "从前有座山。")})
        publish(folder, "ann/mountain")
        files = hub.repos["models", "ann/mountain"].files()
        assert {name: files[name] for name in file_bytes(folder)} == file_bytes(folder)
        loaded = model.load("ann/mountain")
        assert loaded.vocab == vocab and "\n从前有座山。\n" in loaded.card
        card = ModelCard(loaded.card)
        assert (card.data.get("language"), card.data.get("language_bcp47")) == front
        assert (card.data.model_name, "English" in loaded.card) == ("山", False)
    push = gather([folder])
    check(push)
    assert push.artifacts == ["山"] and push.files["artifacts/山/README.md"] == loaded.card.encode()


def test_the_client_talks_to_the_stand_in() -> None:
    assert HfApi().endpoint == ADDRESS
    assert HfApi().whoami()["name"] == "ann"
