"""llama.cpp tells the same stories as our model, through each of its two Python bindings that is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import model
from model import artifacts
from model.config import ModelConfig
from model.network import build
from model.vocab import Vocab
from tests.conftest import parts
from tests.stories import stories
from train.export.gguf import write

CONFIG = ModelConfig(context=256, layers=2, heads=2, width=64, hidden=96, loops=2)
STORY = stories(1)[0]
FOREIGN = "„Süße Äpfel!“ — कहानी में क़लम। 从前有座山,山里有座庙。 שלום 🐍👩‍👧\nEnde."
SETTINGS = {"max_tokens": 200, "temperature": 0, "repeat_penalty": 1}

Tell = Callable[[Path, str], tuple[str, str]]  # a file and a prompt -> at most 200 characters, and why they ended


def llama_cpp(path: Path, prompt: str) -> tuple[str, str]:
    binding = pytest.importorskip("llama_cpp")
    engine = binding.Llama(str(path), n_ctx=CONFIG.context, n_threads=1, verbose=False)
    choice = engine.create_completion(prompt, **SETTINGS)["choices"][0]
    engine.close()
    return choice["text"], choice["finish_reason"]


def xllamacpp(path: Path, prompt: str) -> tuple[str, str]:
    binding = pytest.importorskip("xllamacpp")
    settings = binding.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = CONFIG.context, 1, 1
    choice = binding.Server(settings).handle_completions({"prompt": prompt, **SETTINGS})["choices"][0]
    return choice["text"], choice["finish_reason"]


@pytest.fixture(params=[llama_cpp, xllamacpp])
def tell(request: pytest.FixtureRequest) -> Tell:
    return request.param


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> tuple[model.Storyteller, Path]:
    """A model whose results depend on every symbol of the context, and its export."""
    folder = tmp_path_factory.mktemp("random")
    artifacts.save(folder / "random", **parts(CONFIG))
    return exported(folder / "random")


@pytest.fixture(scope="module", params=[STORY, FOREIGN], ids=["ascii", "foreign"])
def memorised(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[model.Storyteller, Path, str]:
    """A model that has memorised one story, so that rounding does not change what it tells, its export, the story."""
    folder, story = tmp_path_factory.mktemp("memorised"), request.param
    vocab = Vocab.ascii() if story.isascii() else Vocab.of_counts(Counter(story))
    config = replace(CONFIG, vocab_size=len(vocab))
    made = parts(config) | {"vocab": vocab}
    torch.manual_seed(0)
    network = build(config)
    ids = torch.tensor([[vocab.end, *vocab.encode(story), vocab.end]])
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        F.cross_entropy(network(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimiser.step()
    weights = {name: weight.numpy() for name, weight in network.state_dict().items()}
    artifacts.save(folder / "memorised", **made | {"weights": weights})
    return *exported(folder / "memorised"), story


def exported(folder: Path) -> tuple[model.Storyteller, Path]:
    storyteller = model.load(folder)
    write(storyteller, folder.parent / "out")
    return storyteller, folder.parent / "out"


def greedy(storyteller: model.Storyteller, prompt: str) -> str:
    return "".join(storyteller.tell(prompt, model.Sampling(length=200, temperature=0)))


@pytest.mark.parametrize("prompt", ["Once upon a time", "\nTom 's  n't 123456", "T"])
def test_float32_tells_the_same_200_characters(random, tell: Tell, prompt: str) -> None:
    storyteller, out = random
    assert tell(out / "random-F32.gguf", prompt) == (greedy(storyteller, prompt), "length")


def test_characters_without_a_symbol_are_dropped(random, tell: Tell) -> None:
    storyteller, out = random
    assert tell(out / "random-F32.gguf", "“é日Tom\0\0\U0001f40d")[0] == greedy(storyteller, "Tom")


def test_text_of_any_script_is_read_character_by_character(memorised) -> None:
    """Also if an unknown character begins with the bytes of a known one, as ö, 🐎 and ख do."""
    storyteller, out, story = memorised
    binding = pytest.importorskip("llama_cpp")
    engine = binding.Llama(str(out / "memorised-F32.gguf"), vocab_only=True, verbose=False)
    for text in (story, story[::-1], f"ö🐎ख日{story}ö"):
        kept = "".join(c for c in text if c in storyteller.vocab.stoi)
        assert engine.tokenize(text.encode(), add_bos=False) == storyteller.vocab.encode(kept)
    engine.close()


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_story_is_told_to_its_end_mark(memorised, tell: Tell, kind: str) -> None:
    storyteller, out, story = memorised
    start, rest = story[:12], story[12:]
    assert greedy(storyteller, start) == rest
    assert tell(out / f"memorised-{kind}.gguf", start) == (rest, "stop")
