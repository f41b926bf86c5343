"""/score, /next_characters and /models through gradio_client, and all four as tools of the official MCP client."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from serving import save_tiny, serve_tiny

from model import Sampling, Vocab, load
from page.models import EXAMPLES

HINDI = "एक बार हिंदी 🐢"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def server(home):
    vocab = Vocab.of_counts(Counter(HINDI))
    save_tiny(home / "artifacts" / "hindi", nats=2.0, ends=True, vocab=vocab, prompts=[HINDI], language="hi")
    with serve_tiny(home, name="ending", ends=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    client = Client(server.url, verbose=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def storyteller(home, server):
    return load(home / "artifacts" / "ending")


def test_score_says_what_the_model_says(client, storyteller):
    answer = client.predict("ending", "Tom ☃ ran.", api_name="/score")
    scored = storyteller.score("Tom  ran.")
    assert answer["characters"] == "Tom  ran." and answer["dropped"] == ["☃"]
    assert answer["bits"] == pytest.approx([each.nats / math.log(2) for each in scored], abs=1e-3)
    assert answer["bits_per_character"] == pytest.approx(sum(answer["bits"]) / 9, abs=1e-3)
    assert answer["average_bits_per_character"] == pytest.approx(1.0 / math.log(2), abs=1e-3)


def test_next_characters_before_and_after_the_settings(client, storyteller):
    rows = client.predict("ending", "Tom ", 0.5, 3, 1, 0, 5, api_name="/next_characters")
    before = storyteller.next_characters("Tom ", 5)
    after = dict(storyteller.next_characters("Tom ", 5, Sampling(temperature=0.5, top_k=3)))
    assert [row["character"] for row in rows] == [character for character, _ in before]
    assert [row["before"] for row in rows] == pytest.approx([share for _, share in before], abs=1e-6)
    assert [row["after"] for row in rows] == pytest.approx([after.get(row["character"], 0) for row in rows], abs=1e-6)
    assert [row["after"] > 0 for row in rows] == [True] * 3 + [False] * 2


def test_the_documented_examples_work(client):
    """The examples on the page's API link: each parameter's default, or its example where it has no default."""
    for name, endpoint in client.view_api(return_format="dict")["named_endpoints"].items():
        values = {
            it["parameter_name"]: it["parameter_default"] if it["parameter_has_default"] else it["example_input"]
            for it in endpoint["parameters"]
        }
        assert client.predict(**values, api_name=name)


def test_the_usual_text_is_one_that_the_model_can_read(client):
    assert client.predict(api_name="/score")["characters"] == EXAMPLES[0]
    assert client.predict("hindi", api_name="/score")["characters"] == HINDI
    assert client.predict("hindi", api_name="/next_characters") == client.predict(
        "hindi", HINDI, api_name="/next_characters"
    )


def test_a_prompt_in_any_script_comes_back_whole(client):
    story, lines, figures = client.predict("hindi", f"{HINDI}\0☃", 40, seed=7, api_name="/tell")
    assert story.startswith(HINDI) and figures["dropped"] == ["U+0000", "☃"] and figures["kept"] is None
    assert lines.endswith("\nDropped, because the model does not know them: U+0000 ☃")
    from_start, lines, figures = client.predict("hindi", "Tom, ☃", 40, seed=7, api_name="/tell")
    assert from_start == client.predict("hindi", "", 40, seed=7, api_name="/tell")[0]
    assert figures["dropped"] == ["T", "o", "m", ",", "☃"] and figures["kept"] == 0
    assert lines.endswith(
        "The model knows no letter of this prompt, so the story begins from the start. Left out: T o m , ☃"
    )
    scored = client.predict("hindi", "हि\u202e☃", api_name="/score")
    assert (scored["characters"], len(scored["bits"]), scored["dropped"]) == ("हि", 2, ["\u202e", "☃"])


def test_models_are_named(client, storyteller):
    first, second = client.predict(api_name="/models")
    assert second["name"] == "hindi" and second.keys() == first.keys()
    assert [first] == [
        {
            "name": "ending",
            "parameters": storyteller.metrics["parameters"],
            "nats_per_character": 1.0,
            "evaluation_text": "",
            "context": 64,
            "command": "train <b>1</b>",
        }
    ]


@pytest.mark.parametrize(
    ("endpoint", "values", "message"),
    [
        ("/score", ("ending", "a" * 4001), "text has 4,001 characters; the limit is 4,000: shorten it"),
        ("/score", ("ending", "…" * 1334), "text has 4,002 characters; the limit is 4,000: shorten it"),
        ("/score", ("ending", ""), "text has no character that this model knows: write some letters"),
        ("/score", ("gpt-4", "Tom"), "model must be one of ending, hindi"),
        ("/next_characters", ("ending", "Tom", 3), "temperature (3) must be a number from 0 to 2"),
        ("/next_characters", ("ending", "Tom", 1, 0, 1, 0, 0), "count (0) must be a whole number from 1 to 256"),
    ],
)
def test_bad_input_is_refused(client, endpoint, values, message):
    with pytest.raises(AppError) as refused:
        client.predict(*values, api_name=endpoint)
    assert refused.value.message == message


async def use_tools(url: str) -> tuple[dict, dict]:
    """The tools of a server by name, and what each answers."""
    calls = {
        "tell": {"prompt": "Once", "length": 40, "seed": 7},
        "score": {"model": "ending", "text": "Tom ran."},
        "next_characters": {"model": "ending", "prompt": "Tom", "count": 2},
        "models": {},
    }
    hindi = {"model": "hindi", "prompt": HINDI, "length": 40, "seed": 7}
    async with (
        streamable_http_client(f"{url}/gradio_api/mcp/") as (reading, writing, *_),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        answers = {name: await session.call_tool(name, arguments) for name, arguments in calls.items()}
        answers["hindi"] = await session.call_tool("tell", hindi)
        answers["refused"] = await session.call_tool("tell", {"length": 0})
        steps: list[str | None] = []

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            steps.append(message)

        answers["progress"] = await session.call_tool("tell", calls["tell"], progress_callback=progressed)
        assert "Processing" in steps
    return tools, answers


def test_the_same_as_mcp_tools(server, client):
    tools, answers = asyncio.run(use_tools(server.url))
    assert tools.keys() == {"tell", "score", "next_characters", "models"}
    for tool in tools.values():
        assert len(tool.description) > 40
        assert all("description" in each for each in tool.inputSchema["properties"].values())
    assert "on stories that it had not seen, characters (the text" in tools["score"].description
    texts = {name: "\n".join(part.text for part in answer.content) for name, answer in answers.items()}
    told = client.predict("", "Once", 40, seed=7, api_name="/tell")
    for name in ("tell", "progress"):
        story, lines, figures = (part.text for part in answers[name].content)
        assert story == told[0] and "seed 7" in lines and json.loads(figures)["seed"] == 7
    assert answers["hindi"].content[0].text == client.predict("hindi", HINDI, 40, seed=7, api_name="/tell")[0]
    assert json.loads(texts["score"]) == client.predict("ending", "Tom ran.", api_name="/score")
    likeliest = client.predict("ending", "Tom", count=2, api_name="/next_characters")
    assert json.loads(texts["next_characters"]) == likeliest and len(likeliest) == 2
    assert json.loads(texts["models"]) == client.predict(api_name="/models")
    assert answers["refused"].isError
    assert "length (0) must be a whole number from 1 to 4,000" in texts["refused"]
