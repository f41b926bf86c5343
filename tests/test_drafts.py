"""Several drafts after one beginning: the logits of each row are those of its own text, read alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import parts, random_weights

import model
from model import artifacts
from model.config import ModelConfig
from model.drafts import Drafts, OnnxDrafts, Origin, TorchDrafts
from model.graph import OnnxGraph
from model.sampling import Sampling
from model.storyteller import Storyteller
from model.teller import story_pieces
from train.export import onnx as export_onnx
from train.export.onnx_graph import build

LONG = ModelConfig(context=96, layers=2, heads=2, width=32)
ENDLESS = dict(temperature=1.0, stop_at_end=False)


class Reread:
    """The simplest `Drafts`: the whole text of each row is read again for each symbol."""

    def __init__(self, storyteller: Storyteller) -> None:
        self.decoder = storyteller.decoder()
        self.reset()

    def reset(self) -> None:
        self.rows, self.start = [[]], [0]

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        self.rows = [self.rows[0] + list(ids)]
        self.start = [len(self.rows[0])]
        return self.decoder.logits(self.rows[0])[-1]

    def branch(self, origins: Sequence[Origin], rows: int) -> None:
        self.rows = [self.rows[row][: self.start[row] + n] for row, n in origins]
        self.start = [len(row) for row in self.rows]

    def step(self, ids: Sequence[int]) -> np.ndarray:
        for row, id in zip(self.rows, ids, strict=False):
            row.append(id)
        return np.stack([self.decoder.logits(row)[-1] for row in self.rows[: len(ids)]])


@pytest.fixture(scope="module", params=["tiny", "tiny classic", "long"])
def storyteller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Storyteller:
    if request.param != "long":
        return model.load(request.getfixturevalue("tiny_onnx" if request.param == "tiny" else "tiny_classic_onnx"))
    folder = tmp_path_factory.mktemp("drafts") / "long"
    artifacts.save(folder, **parts(LONG) | {"weights": random_weights(LONG, seed=3)})
    export_onnx.write(model.load(folder), bits=32)
    return model.load(folder)


def engines(storyteller: Storyteller, rows: int, steps: int, branches: int) -> Iterator[Drafts]:
    yield OnnxDrafts(storyteller.open_graph(), rows, steps, branches)
    yield TorchDrafts(storyteller.network)


def test_each_row_sees_its_own_text(storyteller: Storyteller) -> None:
    """Rows branch, continue from the middle of other rows, wait, become fewer and more, and are reset."""
    generator = np.random.default_rng(1)

    def ids(n: int) -> list[int]:
        return generator.integers(0, len(storyteller.vocab), n).tolist()

    script: list[tuple[str, tuple]] = [
        *[("feed", (ids(3),)), ("feed", (ids(2),)), ("branch", ([(0, 0)] * 5, 5)), *[("step", (ids(5),))] * 2],
        *[("branch", ([(4, 2), (1, 1), (1, 2), (0, 0)], 2)), *[("step", (ids(2),))] * 3],
        *[("branch", ([(3, 0), (2, 0), (0, 3), (0, 1), (1, 2), (2, 0)], 6)), *[("step", (ids(6),))] * 2],
        *[("reset", ()), ("feed", (ids(4),)), ("branch", ([(0, 0)] * 2, 2)), ("step", (ids(2),))],
    ]
    for drafts in engines(storyteller, rows=6, steps=3, branches=6):
        expected = Reread(storyteller)
        for name, given in script:
            found, right = getattr(drafts, name)(*given), getattr(expected, name)(*given)
            if right is not None:
                np.testing.assert_allclose(found, right, atol=2e-4)


@pytest.mark.parametrize(("drafts", "beams"), [(5, 1), (3, 2), (1, 3), (4, 4)])
def test_every_engine_tells_the_same_story_through_several_contexts(
    storyteller: Storyteller, drafts: int, beams: int
) -> None:
    for prompt in ("", "Once upon a time", "a long beginning " * 9):
        sampling = Sampling(length=150, drafts=drafts, beams=beams, seed=len(prompt), **ENDLESS)
        teller = storyteller.teller(prompt, sampling)
        expected = "".join(story_pieces(teller, Reread(storyteller)))
        assert 0 < len(expected) <= 150 and expected == "".join(storyteller.tell(prompt, sampling))
        for engine in engines(storyteller, teller.rows, teller.limit, teller.beams):
            assert "".join(story_pieces(storyteller.teller(prompt, sampling), engine)) == expected


def test_one_symbol_of_context_is_enough(tmp_path: Path) -> None:
    config = ModelConfig(context=1, layers=1, heads=1, width=32)
    artifacts.save(tmp_path / "short", **parts(config))
    storyteller = model.load(tmp_path / "short")
    assert len("".join(storyteller.tell("Once", Sampling(length=9, drafts=3, beams=2, seed=1, **ENDLESS)))) == 9


def test_only_what_is_in_use_is_in_memory() -> None:
    """The cache has room for all that drafts might need, but takes memory only for what they use."""
    from resource import RUSAGE_SELF, getrusage

    shape = ModelConfig(context=1024, layers=6, heads=4, width=128)
    graph = OnnxGraph(build(shape, random_weights(shape), bits=8), shape, Path("none"))
    before = getrusage(RUSAGE_SELF).ru_maxrss
    drafts = OnnxDrafts(graph, 24, 220, 3)
    drafts.feed([0])
    drafts.branch([(0, 0)] * 24, 24)
    drafts.step([0] * 24)
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB; the whole cache would take 45 MB
