"""Tiny models with seeded random weights, shared by the tests. Do not change a folder: copy it first."""

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
from stand_in_hub import Hub, running  # must come before the Hub's client, which reads its address on import

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

# torch reads this on import, here and in processes that tests start. With a thread per core, networks as small as these
# are slower, and many times slower on a machine that is busy with something else.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests ask only servers of their own, also on a machine behind a proxy.
os.environ["no_proxy"] = ",".join(["127.0.0.1", "localhost", "::1", *filter(None, [os.environ.get("no_proxy")])])

# A plain `make test` runs the other torture tests in a short form; these have no short form.
collect_ignore = [] if FULL else ["torture/test_page_load.py", "torture/test_page_speed.py"]

LONGEST = {
    *("test_monkey.py", "test_readme_commands.py", "test_browser.py", "test_training.py", "test_bench.py"),
    *("test_browser_people.py", "test_browser_tabs.py", "test_page_crowd.py", "test_suite.py", "test_notebook.py"),
}

# Assertions in these modules then print values, as in tests.
pytest.register_assert_rewrite("reading", "serving")

# The same examples on every run, and no time limit, because machines may be slow.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")

LETTERS = " !',.ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GPT = ModelConfig(context=32, layers=2, heads=2, width=32, loops=2)
CLASSIC = ModelConfig(architecture="classic", vocab_size=len(LETTERS), context=32, layers=2, heads=2, width=32)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """A Chromium of Playwright's, for the tests of a file."""
    from reading import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def tiny_numbers() -> Iterator[None]:
    """Undoes what loading a library linked with -ffast-math does: the thread rounds the tiniest numbers to zero."""
    yield
    import torch

    torch.set_flush_denormal(False)
    assert sys.float_info.min / 2 > 0


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns float32 weights so large that every symbol in the context changes the next one's probabilities."""
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.4, shape).astype(np.float32) for name, shape in config.shapes().items()}


def small_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Returns weights as small as at the start of training, with norms of 1: rounding errors do not grow with depth."""
    return {
        name: np.ones_like(array) if "norm.weight" in name else array / 4
        for name, array in random_weights(config).items()
    }


def parts(config: ModelConfig = GPT, *, steps: int = 2, nats: float = 2.5) -> dict[str, object]:
    """Returns the arguments of `artifacts.save` for a model that was never trained."""
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
    """An empty stand-in Hub. The Hub's client of this process connects to it."""
    (tmp_path / "spaces").mkdir()
    with running(tmp_path / "spaces") as server:
        yield server


def exported(source: Path, folder: Path) -> Path:
    """Copies an artifact to `folder` and adds a model.onnx of 32 bits. Returns the folder."""
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
    """Each of the two models, loaded."""
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
    else:  # two files at a time end together if the longest begin
        items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with turn(item):
        return (yield)


def locks(config: pytest.Config) -> list[Path]:
    """Returns the files that the processes of this run lock, or none if there is only one process."""
    run = getattr(config, "workerinput", {}).get("testrunuid")
    return [Path(tempfile.gettempdir(), f"tests-{run}.{name}") for name in ("entry", "work")] if run else []


@contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """If several processes run tests, no test runs at the same time as one marked `alone`: that one measures times.

    Each test locks `entry` and then `work`, both shared, and releases `entry` at once. A test marked `alone` locks both
    exclusively: while it holds `entry` no other test starts, and it gets `work` once the running tests have ended.
    """
    paths = locks(item.config)
    if not paths:
        yield
        return
    mode = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with paths[0].open("w") as entry, paths[1].open("w") as work:
        fcntl.flock(entry, mode)
        fcntl.flock(work, mode)
        if mode == fcntl.LOCK_SH:
            fcntl.flock(entry, fcntl.LOCK_UN)
        try:
            yield
        finally:  # explicitly, because a process that a test forked also has these files open
            for lock in (work, entry):
                fcntl.flock(lock, fcntl.LOCK_UN)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    for lock in locks(config):
        lock.unlink(missing_ok=True)
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    # If a thread or a lock keeps this process from ending, print where, and end before CI reaches its time limit.
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)


def tell(decoder: Decoder, vocab: Vocab, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Tells a story of one draft, through a decoder that has read nothing."""
    return story_pieces(Teller(vocab, prompt, sampling, decoder.context), decoder)
