"""The page's endpoint through gradio_client and plain HTTP, on a server without train/."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from serving import ROOT, Server, save_broken, save_tiny, serve

from docs import reading
from model.artifacts import add_graph, read
from model.sampling import USUAL
from page.answers import Answers
from page.models import Models
from page.turns import AT_ONCE, WAITING

STORIES_AT_ONCE = AT_ONCE["stories"]
PARAMETERS = ["model", "prompt", "length", "temperature", "top_k", "top_p", "min_p", "seed", "drafts", "beams"]
FIGURES = re.compile(r"([\d,]+) characters · [\d,]+ characters/s · seed (\d+)")
LIMIT = "The story reached its length limit here."
REFUSALS = [
    ({"drafts": 0}, "drafts (0) must be a whole number from 1 to 16"),
    ({"drafts": "8"}, "drafts ('8') must be a whole number from 1 to 16"),
    ({"beams": 5}, "beams (5) must be a whole number from 1 to 4"),
    ({"beams": None}, "beams (None) must be a whole number from 1 to 4"),
    ({"prompt": "a" * 4001}, "prompt has 4,001 characters; the limit is 4,000: shorten it"),
    ({"prompt": None}, "prompt must be text, not NoneType"),
    ({"prompt": 7}, "prompt must be text, not int"),
    ({"model": "gpt-4"}, "model must be one of endless, ending"),
    ({"model": ["ending"]}, "model must be one of endless, ending"),
    ({"length": 0}, "length (0) must be a whole number from 1 to 4,000"),
    ({"length": 4001}, "length (4001) must be a whole number from 1 to 4,000"),
    ({"length": 10.5}, "length (10.5) must be a whole number from 1 to 4,000"),
    ({"length": "600"}, "length ('600') must be a whole number from 1 to 4,000"),
    ({"length": True}, "length (True) must be a whole number from 1 to 4,000"),
    ({"length": None}, "length (None) must be a whole number from 1 to 4,000"),
    ({"temperature": -0.1}, "temperature (-0.1) must be a number from 0 to 2"),
    ({"temperature": 2.1}, "temperature (2.1) must be a number from 0 to 2"),
    ({"temperature": "<b>1</b>"}, "temperature ('&lt;b&gt;1&lt;/b&gt;') must be a number from 0 to 2"),
    ({"top_k": -1}, "top_k (-1) must be a whole number of at least 0 (0 keeps all)"),
    ({"top_p": 0}, "top_p (0) must be a number above 0 and at most 1 (1 keeps all)"),
    ({"min_p": 1}, "min_p (1) must be a number from 0 to below 1 (0 keeps all)"),
    ({"seed": -2}, "seed (-2) must be a whole number from -1 to 9,007,199,254,740,991"),
    ({"length": 10**400}, f"length (1{'0' * 36}...) must be a whole number from 1 to 4,000"),
    ({"temperature": "<" * 400}, f"temperature ('{'&lt;' * 36}...) must be a number from 0 to 2"),
    ({"seed": 1e300}, f"seed ({str(int(1e300))[:37]}...) must be a whole number from -1 to 9,007,199,254,740,991"),
    ({"seed": 2**53}, "seed (9007199254740992) must be a whole number from -1 to 9,007,199,254,740,991"),
    ({"seed": "9007199254740993"}, "seed (9007199254740993) must be a whole number from -1 to 9,007,199,254,740,991"),
    ({"seed": "7"}, "seed ('7') must be a whole number from -1 to 9,007,199,254,740,991"),
    ({"seed": 0.5}, "seed (0.5) must be a whole number from -1 to 9,007,199,254,740,991"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Three models: the best never ends a story, the second does, the third is broken."""
    home = tmp_path_factory.mktemp("page")
    save_tiny(home / "artifacts" / "endless", nats=1.0, ends=False, graph=True)
    save_tiny(home / "artifacts" / "ending", nats=2.0, ends=True)
    save_broken(home / "artifacts" / "broken")
    with serve(home, home / "artifacts") as server:
        yield server
        assert server.complaints() == []


@pytest.fixture
def visitor(server):
    """Makes clients; each is a separate visitor."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Client(server.url, verbose=False)))


@pytest.fixture
def client(visitor):
    return visitor()


def settings(**changes):
    plain = dict(model="endless", prompt="Once", length=60, temperature=0.8, top_k=0, top_p=1, min_p=0, seed=7)
    plain |= dict(drafts=1, beams=1)
    return plain | changes


def tell(client, **changes):
    """The story and the lines about it."""
    return client.predict(**settings(**changes), api_name="/tell")[:2]


def first_piece(job, timeout=20):
    """Waits for the first characters that a job writes."""
    deadline = time.monotonic() + timeout
    while not any(figures["characters"] for *_, figures in job.outputs()):
        assert time.monotonic() < deadline, f"no story within {timeout} s: {job.status()}"
        time.sleep(0.002)
    return time.monotonic()


def call(server: Server, endpoint: str, body: str) -> tuple[str, object]:
    """The kind and the data of the last event of a call's answer."""
    with server.call(endpoint, body) as answer:
        *_, kind, data, _ = answer.read().decode().split("\n")[:-1]
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def refusal(server: Server, endpoint: str, body: str) -> str:
    kind, data = call(server, endpoint, body)
    assert kind == "error"
    return data["error"]


def in_place(server: Server, endpoint: str, *values: object) -> str:
    """The refusal of a tab's call, which the page shows without changing the last answer."""
    message = server.ask_tab(endpoint, *values)[-1]
    kept, refused = message["output"]["data"]
    assert message["success"] and kept["__type__"] == "update" and "value" not in kept
    return refused["text"]


def test_answers_within_eight_seconds(server):
    assert server.seconds < 8


def test_four_endpoints_with_parameters_by_name(client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert endpoints["unnamed_endpoints"] == {}
    assert {
        name: [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in endpoints["named_endpoints"].items()
    } == {
        "/tell": PARAMETERS,
        "/score": ["model", "text"],
        "/next_characters": ["model", "prompt", "temperature", "top_k", "top_p", "min_p", "count"],
        "/models": [],
    }


def test_the_page_opens_on_the_best_and_names_the_skipped(server):
    with urllib.request.urlopen(f"{server.url}/config", timeout=10) as answer:
        components = json.load(answer)["components"]
    values = {each["props"].get("elem_id"): each["props"].get("value") for each in components}
    assert values["model"] == "endless"
    reason = values["skipped"]
    assert reason.startswith("broken: broken/model.safetensors ")
    assert reason.endswith("; restore the folder from where it came, or train the model again")


def test_a_story_grows_from_its_prompt(client):
    job = client.submit(**settings(length=1000), api_name="/tell")
    story, about, said = job.result(30)
    stories = [each[0] for each in job.outputs()]
    assert len(set(stories)) > 5
    assert stories[0].startswith("Once")
    assert all(after.startswith(before) for before, after in pairwise(stories))
    assert len(story) == len("Once") + 1000
    figures, *why = about.splitlines()
    assert FIGURES.fullmatch(figures).groups() == ("1,000", "7") and why == [LIMIT]
    assert said.pop("per_second") == int(re.search(r"([\d,]+) characters/s", figures)[1].replace(",", ""))
    states = dict(running=False, stopped=False, ended=False)
    assert said == dict(model="endless", seed=7, characters=1000, ahead=0, dropped=[], kept=None) | states


def test_defaults_suffice(client):
    story, about, _ = client.predict(api_name="/tell")
    assert USUAL.length / 2 < len(story) <= USUAL.length
    assert about.splitlines()[1:] == [LIMIT]


def test_a_seed_reproduces_its_story(client):
    assert tell(client, seed=7)[0] == tell(client, seed=7)[0] != tell(client, seed=8)[0]
    story, about = tell(client, seed=-1)
    assert FIGURES.match(tell(client, seed=2**53 - 1)[1])[2] == "9007199254740991"  # the last that no browser rounds
    drawn = int(FIGURES.match(about)[2])
    assert tell(client, seed=drawn)[0] == story != tell(client, seed=-1)[0]


def test_numbers_of_a_browser_are_taken(client):
    assert tell(client, length=60.0, top_k=5.0, seed=7.0, temperature=1)[0]


def test_a_story_may_end_sooner(client):
    story, about = tell(client, model="ending", length=4000)
    assert len(story) < 4000
    assert about.splitlines()[1] == "The model ended the story here."


def test_unknown_characters_are_dropped_and_named(client):
    story, about = tell(client, prompt="Tom ☃ \x07saw 7 café")
    assert story.startswith("Tom  saw  cafe")
    assert about.splitlines()[2:] == ["Dropped, because the model does not know them: ☃ U+0007 7"]


def test_a_long_prompt_is_read_from_its_end(client):
    story, about = tell(client, prompt="word " * 800)
    assert story.startswith("word " * 800)
    assert about.splitlines()[2:] == [
        "The text so far is longer than this model's context: it read the last 64 characters."
    ]


@pytest.mark.parametrize(("changes", "message"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_bad_input_is_refused_in_one_line(client, changes, message):
    with pytest.raises(AppError) as refused:
        tell(client, **changes)
    assert refused.value.message == message


@pytest.mark.parametrize("number", ['"1"', "null", "false", "[1]", "{}"])
def test_bad_numbers_over_plain_http(server, number):
    values = json.dumps(list(settings(temperature="HERE").values())).replace('"HERE"', number)
    message = refusal(server, "tell", f'{{"data": {values}}}')
    assert re.fullmatch(r"temperature \(.+\) must be a number from 0 to 2", message)


def test_bad_calls_over_plain_http(server):
    def refused(*values: object) -> str:
        return refusal(server, "tell", json.dumps({"data": values}))

    model, _, *rest = settings().values()
    assert refused(model, {"a": 1}, *rest) == "prompt must be text, not dict"
    assert refused([model], "Once", *rest) == "model must be one of endless, ending"
    assert refused(model, "Once", *rest[:5], {"a": 1}, 1, 1).startswith("seed ({'a': 1}) must be a whole number from")
    assert refused(model, "Once", 4001, *rest[1:]) == "length (4001) must be a whole number from 1 to 4,000"
    assert refused(model, "Once", 60, 2.1, *rest[2:]) == "temperature (2.1) must be a number from 0 to 2"


def test_the_tabs_refuse_in_place(server):
    model, _, *rest = settings().values()
    assert in_place(server, "tell_here", "gpt-4", "Once", *rest) == "model must be one of endless, ending"
    assert in_place(server, "go_on", model, "", 0, *rest) == "there is no story to continue yet: press Tell first"
    story = "story has 40,001 characters; the limit is 40,000: start a new one"
    assert in_place(server, "go_on", model, "a" * 40_001, 0, *rest) == story
    assert in_place(server, "go_on", model, 7, 0, *rest) == "story must be text, not int"
    assert in_place(server, "go_on", model, "Once", 5, *rest) == "prompt_length (5) must be a whole number from 0 to 4"
    assert in_place(server, "compare", "Once", 0, *rest[1:]) == "length (0) must be a whole number from 1 to 4,000"
    assert in_place(server, "colour", model, "☃") == "text has no character that this model knows: write some letters"
    assert in_place(server, "look", model, "Tom", 4, 1, 0, 1, 0) == "index (4) must be a whole number from 0 to 3"
    layer = "layer (3) must be a whole number from 1 to 2"
    assert in_place(server, "attention_here", "ending", "Tom", 3, 3, 1) == layer
    assert in_place(server, "attention_here", model, "Tom", 3, 1, 0) == "head (0) must be a whole number from 1 to 2"


def test_the_queue_cannot_be_bypassed(server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post("/run/tell", json.dumps({"data": list(settings().values())}))
    assert refused.value.code == 404
    refused.value.close()


@pytest.mark.alone
def test_the_first_character_comes_within_300_ms(client):
    tell(client)
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        job = client.submit(**settings(), api_name="/tell")
        seconds.append(first_piece(job) - started)
        job.result(20)
    assert sorted(seconds)[2] < 0.3


@pytest.fixture
def begin(server):
    """Begins a story over plain HTTP, and returns its stream of events, which stays open until the test ends.

    A Gradio client for each story would take so much time that the measured times would be wrong.
    """
    with ExitStack() as stack:
        yield lambda length: stack.enter_context(
            server.call("tell", json.dumps({"data": list(settings(length=length).values())}))
        )


@pytest.fixture
def fill(begin):
    """Begins long stories, which go on until the test ends."""

    def fill(count=STORIES_AT_ONCE):
        streams = [begin(4000) for _ in range(count)]
        for stream in streams:
            assert wait_for(stream, lambda figures: figures["characters"])
        return streams

    return fill


def wait_for(stream, condition):
    """Reads the stream of a story until its figures meet the condition, and returns them."""
    for line in stream:
        if line.startswith(b"data: ["):
            *_, figures = json.loads(line.removeprefix(b"data: "))
            if condition(figures):
                return figures
    raise AssertionError("the story ended before")


def seconds_to_a_story(waiting, leave):
    """Seconds from when a client leaves to the first character of the story that waits."""
    assert wait_for(waiting, lambda figures: figures["ahead"])["ahead"] == 1
    left = time.monotonic()
    leave()
    wait_for(waiting, lambda figures: figures["characters"])
    return time.monotonic() - left


@pytest.mark.alone
def test_stop_frees_the_slot_within_200_ms(fill, begin, client):
    stopped = client.submit(**settings(length=4000), api_name="/tell")
    first_piece(stopped)
    fill(STORIES_AT_ONCE - 1)
    assert seconds_to_a_story(begin(1), stopped.cancel) < 0.2
    time.sleep(0.2)
    pieces = len(stopped.outputs())
    time.sleep(0.3)
    assert len(stopped.outputs()) == pieces
    assert len(stopped.outputs()[-1][0]) < 4000


@pytest.mark.alone
def test_a_visitor_who_leaves_frees_the_slot(fill, begin):
    first, *_, last = fill()
    for leaver in (first, last):
        assert seconds_to_a_story(begin(1), leaver.close) < 0.2
        fill(1)


def test_a_full_queue_says_so(server, fill, begin):
    fill()
    places = [begin(1) for _ in range(WAITING)]
    assert [wait_for(place, lambda figures: figures["ahead"])["ahead"] for place in places] == list(range(1, 33))
    full = "The queue is full, because many people are asking at once: try again in a minute."
    assert refusal(server, "tell", json.dumps({"data": list(settings().values())})) == full


def test_without_a_model_the_page_says_how_to_train_one(tmp_path):
    addresses = Path("/proc/net/if_inet6")  # empty or missing on a machine without IPv6
    host = "::1" if addresses.exists() and addresses.read_text() else "127.0.0.1"
    with serve(tmp_path, tmp_path / "none", host=host) as server:
        with urllib.request.urlopen(f"{server.url}/config", timeout=10) as answer:
            page = answer.read().decode()
        assert "No model yet" in page and '"elem_id":"skipped"' not in page
        assert "--out none/pocket" in page and str(tmp_path) not in page
        assert server.complaints() == []


def test_a_graph_that_cannot_be_used_is_named_without_the_server_s_paths(tmp_path):
    save_tiny(tmp_path / "tiny", nats=1.0, ends=True)
    (tmp_path / "tiny" / "model.onnx").write_bytes(b"no graph")
    save_tiny(tmp_path / "odd", nats=1.0, ends=True)
    weights = read(tmp_path / "odd").hashes["model.safetensors"]
    add_graph(tmp_path / "odd", b"no graph either", weights)  # found out when it is opened
    code = (
        "import pathlib, sys; {} and sys.modules.update(torch=None); import page.models\n"
        f"models = page.models.Models(pathlib.Path({str(tmp_path)!r}))\n"
        "print(models.warnings, models.skipped, sep='\\n')"
    )

    def troubles(without_torch):
        command = [sys.executable, "-c", code.format(without_torch)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert str(tmp_path) not in run.stdout
        return [ast.literal_eval(line) for line in run.stdout.splitlines()]

    with_torch, skipped = troubles(False)
    assert skipped == {} and with_torch.keys() == {"tiny", "odd"}
    assert all("until then PyTorch tells its stories" in reason for reason in with_torch.values())
    assert "odd/model.onnx cannot be opened by ONNX Runtime" in with_torch["odd"]
    warnings, without = troubles(True)
    assert warnings == {} and without.keys() == {"tiny", "odd"}
    assert all("it tells none: PyTorch is not installed" in reason for reason in without.values())


def test_the_page_begins_with_the_settings_that_read_best():
    grades = reading.grades()
    assert {"real stories", reading.name(USUAL), reading.name(reading.BEFORE)} <= grades.keys() and len(grades) > 6
    told = {name: each for name, each in grades.items() if name != "real stories"}
    assert max(told, key=lambda name: sum(told[name])) == reading.name(USUAL)
    for name in ("storyteller", "pocket"):  # their stories were judged with these settings
        judged = json.loads((ROOT / "artifacts" / name / "metrics.json").read_text())["stories"]["sampling"]
        assert replace(USUAL, **judged) == USUAL


@pytest.mark.parametrize("graph", [True, False])
def test_a_look_and_its_colour_agree_and_the_text_is_read_once(tmp_path, monkeypatch, graph):
    """With either decoder, and where the text is longer than the context."""
    save_tiny(tmp_path / "tiny", nats=1.0, ends=True, graph=graph)
    answers = Answers(Models(tmp_path))
    storyteller = answers.models.storytellers["tiny"]
    reads = []
    read = storyteller.logits
    monkeypatch.setattr(storyteller, "logits", lambda ids: reads.append(len(ids)) or read(ids))
    text = ("Tom had a cat. " * 20)[: 3 * storyteller.config.context + 7]
    scored = answers.colours(None, "tiny", text)
    assert scored["characters"] == text
    assert answers.endpoints.score("tiny", text)["bits"] == json.loads(scored["bits"])
    of_record = [each.nats / math.log(2) for each in storyteller.score(text)]
    for index, bits in enumerate(json.loads(scored["bits"])):
        look = answers.look(None, "tiny", text, index, 0.5, 0, 1, 0)
        here = next(row for row in look["rows"] if row["character"] == text[index])
        assert -math.log2(here["before"]) == pytest.approx(bits, abs=1e-3) == pytest.approx(of_record[index], abs=1e-3)
    after = answers.look(None, "tiny", text, len(text), 0.5, 0, 1, 0)
    assert after["here"] is None and after["rows"]
    assert reads == [len(text) + 1, len(text)], "once for all looks, and once for the model's own score"
