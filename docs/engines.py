"""The engines that docs/bench.py compares: how each is prepared, how it tells a story, and its version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from docs import loops
from docs.loops import Loops, LoopsDecoder
from model.decoder import CachingDecoder, TorchDecoder
from model.sampling import Sampling, pick
from model.storyteller import Storyteller, load
from model.teller import story_pieces
from page.scheduler import Scheduler

ROOT = Path(__file__).parent.parent

OnCharacters = Callable[[int], None]  # is called with the number of characters whenever some have been told
Tell = Callable[[str, int, OnCharacters], None]  # (prompt, length, on_characters): tells `length` characters


class Engine(NamedTuple):
    name: str
    version: Callable[[], str]  # of what name and version; raises RuntimeError if that is not installed
    prepare: Callable[[Path], Path]  # from a copy of an artifact to the folder that `load` opens
    load: Callable[[Path], Tell]
    shared: bool = False  # one process can tell several stories at once


def sampling(length: int) -> Sampling:
    return Sampling(length=length, temperature=0.8, seed=1, stop_at_end=False)


def plain(path: Path) -> Tell:
    """Without a cache: reads the whole story again for each character."""
    import torch

    storyteller = load(path)
    network, context = storyteller.network, storyteller.config.context

    def tell(prompt: str, length: int, on_characters: OnCharacters) -> None:
        generator, ids = np.random.default_rng(1), storyteller.prepare(prompt).ids
        for _ in range(length):
            with torch.inference_mode():
                logits = network(torch.tensor([ids[-context:]]))[0, -1].numpy()
            ids.append(pick(logits, sampling(length), generator))
            on_characters(1)

    return tell


def decoded(storyteller: Storyteller, new_decoder: Callable[[], CachingDecoder]) -> Tell:
    """Each story through a decoder of its own, with our sampling."""

    def tell(prompt: str, length: int, on_characters: OnCharacters) -> None:
        for piece in story_pieces(storyteller.teller(prompt, sampling(length)), new_decoder()):
            on_characters(len(piece))

    return tell


def cached(path: Path) -> Tell:
    storyteller = load(path)
    return decoded(storyteller, partial(TorchDecoder, storyteller.network))


def c_loops(path: Path) -> Tell:
    storyteller = load(path)
    return decoded(storyteller, partial(LoopsDecoder, Loops(storyteller, path)))


def onnx(path: Path) -> Tell:
    """As on the page: one scheduler serves all readers, the first character alone and then in pieces."""
    storyteller, scheduler = load(path), Scheduler()

    def tell(prompt: str, length: int, on_characters: OnCharacters) -> None:
        for piece in scheduler.tell(storyteller, storyteller.teller(prompt, sampling(length))):
            on_characters(len(piece))

    return tell


class Streamer:
    """What `generate` of transformers calls with the ids of the prompt, and then with each new id."""

    def __init__(self, on_characters: OnCharacters) -> None:
        self.on_characters, self.in_story = on_characters, False

    def put(self, ids: object) -> None:
        if self.in_story:
            self.on_characters(1)
        self.in_story = True

    def end(self) -> None:
        pass


def transformers(path: Path) -> Tell:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)

    def tell(prompt: str, length: int, on_characters: OnCharacters) -> None:
        ids = tokenizer(prompt, return_tensors="pt")
        limits = dict(max_new_tokens=length, min_new_tokens=length)
        network.generate(**ids, **limits, do_sample=True, temperature=0.8, top_k=0, streamer=Streamer(on_characters))

    return tell


def llama_cpp(path: Path) -> Tell:
    """With a cache in float32, as ours is: its default of 16 bits was slower."""
    from llama_cpp import GGML_TYPE_F32, Llama

    [gguf] = path.glob("*-Q8_0.gguf")
    cache = dict(type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32)
    llama = Llama(str(gguf), n_ctx=0, n_threads=1, n_threads_batch=1, verbose=False, **cache)

    def tell(prompt: str, length: int, on_characters: OnCharacters) -> None:
        llama.reset()
        told = llama.generate(llama.tokenize(prompt.encode()), temp=0.8, top_k=0, top_p=1.0, min_p=0.0)
        for _ in zip(range(length), told, strict=False):
            on_characters(1)

    return tell


def package(name: str) -> Callable[[], str]:
    """What returns the name and the version of a package. It raises RuntimeError if that is not installed."""

    def version() -> str:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError as error:
            raise RuntimeError(f"not installed; install it with: .venv/bin/python -m pip install {name}") from error

    return version


def exported(flags: str) -> Callable[[Path], Path]:
    """What runs `python -m train.export` with these flags on an artifact, and returns the folder with the result.

    A graph goes into the artifact itself, other formats into a folder beside it. It raises RuntimeError if that fails.
    """

    def prepare(copy: Path) -> Path:
        path = copy if "onnx" in flags else copy.with_name(f"{copy.name}-exported")
        command = [sys.executable, "-m", "train.export", copy, *flags.split(), *({path} - {copy})]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError((run.stderr.strip().splitlines() or ["the export failed"])[-1])
        return path

    return prepare


def compiled(copy: Path) -> Path:
    loops.build(copy)
    return copy


def unchanged(copy: Path) -> Path:
    return copy


LLAMA, CACHED = "llama.cpp, 8 bits", "PyTorch, cache"
ENGINES = [
    Engine("PyTorch, no cache", package("torch"), unchanged, plain),
    Engine(CACHED, package("torch"), unchanged, cached, shared=True),
    Engine("transformers generate", package("transformers"), exported("--to transformers"), transformers),
    Engine("C loops as in llama2.c", loops.compiler_version, compiled, c_loops, shared=True),
    Engine(LLAMA, package("llama-cpp-python"), exported("--to gguf"), llama_cpp),
    Engine("ONNX Runtime, 32 bits", package("onnxruntime"), exported("--to onnx --bits 32"), onnx, shared=True),
    Engine("ONNX Runtime, 8 bits", package("onnxruntime"), exported("--to onnx --bits 8"), onnx, shared=True),
]
BASES = (LLAMA, CACHED)  # the others are compared with the first of these that was measured
