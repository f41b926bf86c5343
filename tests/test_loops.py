"""docs/loops.c computes the network, and a compiler that is missing or broken is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import GPT, parts

import model
from docs import loops
from model import artifacts
from model.config import ModelConfig
from model.decoder import TorchDecoder
from model.gpt import NORM_EPS

MISSING = r"^there is no C compiler \(gcc, clang, cc\); install gcc$"


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("tiny_numbers")
@pytest.mark.parametrize("config", [GPT, replace(GPT, loops=1, heads=1, hidden=64)], ids=["looped", "one head"])
def test_the_loops_compute_the_network(config: ModelConfig, tmp_path: Path) -> None:
    if not any(map(shutil.which, loops.COMPILERS)):
        with pytest.raises(RuntimeError, match=MISSING):
            loops.build(tmp_path)
        return
    artifacts.save(tmp_path / "gpt", **parts(config))
    storyteller = model.load(tmp_path / "gpt")
    loops.build(tmp_path)
    decoder, reference = loops.LoopsDecoder(loops.Loops(storyteller, tmp_path)), TorchDecoder(storyteller.network)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, config.context).tolist()
    expected = reference.logits(ids)  # (T, V)
    for _ in range(2):
        found = np.stack([decoder.feed([id]) for id in ids])
        assert np.abs(found - expected).max() < 1e-3 * expected.std()
        decoder.reset()
    for part in (ids[:20], ids[20:], ids[:5]):  # the last part is beyond the context
        logits = reference.feed(part)
        assert np.abs(decoder.feed(part) - logits).max() < 1e-3 * logits.std()


def test_the_constants_are_those_of_the_network() -> None:
    assert loops.EPSILON == NORM_EPS


def test_the_loops_refuse_a_classic(tiny_classic: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^loops.c computes a gpt, not a classic$"):
        loops.Loops(model.load(tiny_classic), tmp_path)


def test_a_missing_or_broken_compiler_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for function in (loops.compiler, loops.compiler_version, lambda: loops.build(tmp_path)):
        with pytest.raises(RuntimeError, match=MISSING):
            function()
    executable(tmp_path / "cc", "echo one >&2; echo math.h is missing >&2; exit 1")
    with pytest.raises(RuntimeError, match=r"^math.h is missing$"):
        loops.build(tmp_path)


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("gcc (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc 12.2.0"),
        ("gcc (GCC) 15.1.1 20250521 (Red Hat 15.1.1-2)", "gcc 15.1.1"),
        ("Apple clang version 17.0.0 (clang-1700.0.13.3)", "clang 17.0.0"),
        ("a compiler by hand", "gcc of unknown version"),
    ],
)
def test_the_version_of_a_compiler(line: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "gcc", f"echo '{line}'; echo 'Copyright 1.2.3'")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert loops.compiler_version() == version
