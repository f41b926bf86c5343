"""Tiny models with seeded random weights, shared by the tests; they are read only: copy a folder to change it."""

from __future__ import annotations

import faulthandler
import fcntl
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from stand_in_hub import Hub, running  # before the Hub's client is imported, which reads its address once

import model
from model import artifacts
from model.config import ModelConfig
from model.decoder import Decoder
from model.sampling import Sampling
from model.storyteller import Storyteller
from model.teller import Teller, story_pieces
from model.vocab import Vocab
from tests.torture.record import FULL
from train.export import onnx as export_onnx

# Read when torch is imported, here and in what the tests start: with a thread per core, networks as small as theirs
# are slower, and many times slower on a machine that does something else as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# These have no short form, which is what a plain `make test` runs of the others.
collect_ignore = [] if FULL else ["torture/test_page_load.py", "torture/test_page_speed.py"]

# So that their assertions print values, as those of tests do.
pytest.register_assert_rewrite("reading", "serving")

# The same examples on every run, however slow the machine.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")

LETTERS = " !',.ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GPT = ModelConfig(context=32, layers=2, heads=2, width=32, loops=2)
CLASSIC = ModelConfig(architecture="classic", vocab_size=len(LETTERS), context=32, layers=2, heads=2, width=32)


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 weights large enough that every symbol in the context moves the next one's probabilities."""
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.4, shape).astype(np.float32) for name, shape in config.shapes().items()}


def calm_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Weights of the size that training begins with: norms of 1, so that rounding does not grow from block to block."""
    return {
        name: np.ones_like(array) if "norm.weight" in name else array / 4
        for name, array in random_weights(config).items()
    }


def parts(config: ModelConfig = GPT, *, steps: int = 2, nats: float = 2.5) -> dict[str, object]:
    """What `artifacts.save` takes for a model that was never trained."""
    parameters = sum(math.prod(shape) for shape in config.shapes().values())
    return {
        "config": config,
        "vocab": Vocab.ascii() if config.architecture == "gpt" else Vocab.from_text(LETTERS),
        "weights": random_weights(config),
        "metrics": {"name": "tiny", "nats_per_character": nats, "parameters": parameters, "steps": steps},
        "log": [{"step": step, "train": 4.5, "val": 4.6} for step in range(1, steps + 1)],
        "card": "# tiny\n",
    }


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a gpt with a context of 32 and its blocks applied twice."""
    folder = tmp_path_factory.mktemp("artifacts") / "tiny"
    artifacts.save(folder, **parts(GPT))
    return folder


@pytest.fixture(scope="session")
def tiny_classic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classic with a context of 32, which knows letters but no digits, newline or end mark."""
    folder = tmp_path_factory.mktemp("artifacts") / "tiny-classic"
    artifacts.save(folder, **parts(CLASSIC))
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A stand-in Hub, empty; it is where the Hub's client of this process looks."""
    (tmp_path / "spaces").mkdir()
    with running(tmp_path / "spaces") as server:
        yield server


def exported(source: Path, folder: Path) -> Path:
    """A copy of an artifact in `folder` with a model.onnx of 32 bits."""
    shutil.copytree(source, folder)
    export_onnx.write(model.load(folder), bits=32)
    return folder


@pytest.fixture(scope="session")
def tiny_onnx(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_artifact with a model.onnx of 32 bits."""
    return exported(tiny_artifact, tmp_path_factory.mktemp("onnx") / "tiny")


@pytest.fixture(scope="session")
def tiny_classic_onnx(tiny_classic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_classic with a model.onnx of 32 bits."""
    return exported(tiny_classic, tmp_path_factory.mktemp("onnx") / "tiny-classic")


@pytest.fixture(scope="session", params=["tiny_artifact", "tiny_classic"])
def storyteller(request: pytest.FixtureRequest) -> Storyteller:
    """Each of the two, loaded."""
    return model.load(request.getfixturevalue(request.param))


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "run the files, and the tests within each, in a seeded random order"
    parser.addoption("--shuffle", type=int, metavar="SEED", help=about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("--shuffle")) is not None:
        draw = random.Random(seed)
        files = sorted({item.path for item in items})
        place = {path: number for number, path in enumerate(draw.sample(files, len(files)))}
        items.sort(key=lambda item: (place[item.path], draw.random()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with turn(item):
        return (yield)


def locks(config: pytest.Config) -> list[Path]:
    """The files that the processes of this run lock, none where there is one process."""
    run = getattr(config, "workerinput", {}).get("testrunuid")
    return [Path(tempfile.gettempdir(), f"tests-{run}.{name}") for name in ("door", "room")] if run else []


@contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Where several processes run tests, none runs beside one that is marked `alone`, as what it times would show it.

    All go through a door into a room, at which one that is to be alone stops the others while the room empties.
    """
    paths = locks(item.config)
    if not paths:
        yield
        return
    wish = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with paths[0].open("w") as door, paths[1].open("w") as room:
        fcntl.flock(door, wish)
        fcntl.flock(room, wish)
        if wish == fcntl.LOCK_SH:
            fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:  # by hand, as a process that a test has forked has these open as well
            for lock in (room, door):
                fcntl.flock(lock, fcntl.LOCK_UN)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    for lock in locks(config):
        lock.unlink(missing_ok=True)
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    # Whatever keeps this process from ending, a thread or a lock, must not keep CI until its limit, nor hide.
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)


def tell(decoder: Decoder, vocab: Vocab, prompt: str, sampling: Sampling) -> Iterator[str]:
    """A story of one draft, through a decoder that has read nothing."""
    return story_pieces(Teller(vocab, prompt, sampling, decoder.context), decoder)
