"""Compares engines on the same weights: python docs/bench.py artifacts/storyteller --quick --json bench.json.

Every engine runs in its own process, with one thread per story. The engines take turns in each round, so other load on
the machine affects all of them alike. train.export writes the files that the other engines need.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from model.artifacts import ArtifactError  # noqa: E402
from model.decoder import TorchDecoder  # noqa: E402
from model.sampling import Sampling, pick  # noqa: E402
from model.storyteller import load  # noqa: E402
from model.teller import story_pieces  # noqa: E402
from page.scheduler import Scheduler  # noqa: E402

Tell = Callable[[str, int], object]  # (prompt, characters): tells so many characters

PROMPT = "Once upon a time, in a big old "  # 31 characters; the symbol that opens a story comes before them
BASE = "PyTorch, cache"  # the engine that the others are compared with
READ_BYTES = 256 * 2**20  # read to measure the bandwidth: more than any CPU cache holds
LISTED = ("engine", "characters/s", f"against {BASE}", "share of the limit", "first character, ms", "start, s", "MB")


def sampling(length: int) -> Sampling:
    return Sampling(length=length, temperature=0.8, seed=1, stop_at_end=False)


def plain(path: Path) -> Tell:
    """Without a cache: reads the whole story again for each character."""
    import torch

    storyteller = load(path)
    network, context = storyteller.network, storyteller.config.context

    def run(prompt: str, length: int) -> None:
        generator, ids = np.random.default_rng(1), storyteller.prepare(prompt).ids
        for _ in range(length):
            with torch.inference_mode():
                logits = network(torch.tensor([ids[-context:]]))[0, -1].numpy()
            ids.append(pick(logits, sampling(length), generator))

    return run


def cached(path: Path) -> Tell:
    storyteller = load(path)
    network = storyteller.network
    teller = storyteller.teller
    return lambda prompt, length: list(story_pieces(teller(prompt, sampling(length)), TorchDecoder(network)))


def onnx(path: Path) -> Tell:
    """As on the page: one scheduler serves all readers."""
    storyteller, scheduler = load(path), Scheduler()
    return lambda prompt, length: list(scheduler.tell(storyteller, storyteller.teller(prompt, sampling(length))))


def transformers(path: Path) -> Tell:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)

    def run(prompt: str, length: int) -> object:
        ids = tokenizer(prompt, return_tensors="pt")
        limits = dict(max_new_tokens=length, min_new_tokens=length)
        return network.generate(**ids, **limits, do_sample=True, temperature=0.8, top_k=0)

    return run


def llama_cpp(path: Path) -> Tell:
    """In 8 bits. Needs llama.cpp's Python binding (pip install llama-cpp-python)."""
    from llama_cpp import Llama

    [gguf] = path.glob("*-Q8_0.gguf")
    llama = Llama(str(gguf), n_ctx=0, n_threads=1, n_threads_batch=1, verbose=False)

    def run(prompt: str, length: int) -> object:
        llama.reset()
        told = llama.generate(llama.tokenize(prompt.encode()), temp=0.8, top_k=0, top_p=1.0, min_p=0.0)
        return [token for _, token in zip(range(length), told, strict=False)]

    return run


class Engine(NamedTuple):
    name: str
    load: Callable[[Path], Tell]
    flags: str  # of `python -m train.export`; empty if the engine opens the artifact itself
    weight_bytes: int
    shared: bool = False  # one process can tell several stories at once


ENGINES = [
    Engine("PyTorch, no cache", plain, "", 4),
    Engine(BASE, cached, "", 4, True),
    Engine("transformers generate", transformers, "--to transformers", 4),
    Engine("llama.cpp, 8 bits", llama_cpp, "--to gguf", 1),
    Engine("ONNX Runtime, 32 bits", onnx, "--to onnx --bits 32", 4, True),
    Engine("ONNX Runtime, 8 bits", onnx, "--to onnx --bits 8", 1, True),
]
OPENED: dict[str, Tell] = {}  # used in the process of an engine: its function, by the name of the engine


def start(name: str, path: Path) -> None:
    """Runs in the process of an engine: opens the engine and tells one character."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, which the engine imports
    OPENED[name] = next(engine.load for engine in ENGINES if engine.name == name)(path)
    OPENED[name](PROMPT, 1)


def work(name: str, readers: int, length: int) -> tuple[float, float]:
    """Runs there too: returns the seconds for so many stories at once, and the peak memory so far in MB."""
    began = time.perf_counter()
    if readers == 1:
        OPENED[name](PROMPT, length)
    else:
        with ThreadPoolExecutor(readers) as pool:
            list(pool.map(OPENED[name], [PROMPT] * readers, [length] * readers))
    return time.perf_counter() - began, peak_memory()


def peak_memory() -> float:
    """The peak memory of this process in MB. Not ru_maxrss on Linux, which includes the parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Worker:
    """An engine in its own process, and its measurements. Raises whatever the engine raises."""

    def __init__(self, name: str, path: Path, stack: ExitStack) -> None:
        self.name = name
        self.megabytes = 0.0  # with one story
        self.seconds: dict[tuple[int, int], list[float]] = {}
        self.process = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        began = time.perf_counter()
        self.process.submit(start, name, path).result()
        self.start_seconds = time.perf_counter() - began

    def ask(self, readers: int, length: int) -> None:
        seconds, megabytes = self.process.submit(work, self.name, readers, length).result()
        self.seconds.setdefault((readers, length), []).append(seconds)
        self.megabytes = self.megabytes or megabytes

    def median(self, readers: int, length: int) -> float:
        return statistics.median(self.seconds[readers, length])


@contextmanager
def exported(folder: Path, flags: str) -> Iterator[Path]:
    """The folder that an engine opens: a copy of the artifact, or its export. RuntimeError if the export fails."""
    with tempfile.TemporaryDirectory() as home:
        path = copy = Path(shutil.copytree(folder, Path(home) / folder.name))
        if flags:
            path = copy if "onnx" in flags else Path(home) / "out"
            command = [sys.executable, "-m", "train.export", copy, *flags.split(), *({path} - {copy})]
            run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if run.returncode:
                raise RuntimeError((run.stderr.strip().splitlines() or ["the export failed"])[-1])
        yield path


def bandwidth() -> float:
    """Bytes per second that one thread reads from memory."""
    words = np.ones(READ_BYTES // 8, np.uint64)
    began = time.perf_counter()
    np.bitwise_or.reduce(words)
    return READ_BYTES / (time.perf_counter() - began)


def measure(folder: Path, *, rounds: int, length: int, readers: Sequence[int]) -> dict[str, Any]:
    """The figures of every engine that runs here, and for each other engine the reason why not."""
    folder = folder.resolve()
    storyteller = load(folder)
    workers, skipped, speeds = {}, {}, []
    with ExitStack() as stack:
        for engine in ENGINES:
            try:
                path = stack.enter_context(exported(folder, engine.flags))
                workers[engine] = Worker(engine.name, path, stack)
            except Exception as error:  # each engine raises errors of its own kinds
                skipped[engine.name] = str(error)
        for _ in range(rounds):
            speeds.append(bandwidth())
            for engine, worker in list(workers.items()):
                try:
                    for count in (1, *(readers if engine.shared else ())):
                        worker.ask(count, length)
                    worker.ask(1, 1)
                except Exception as error:
                    skipped[engine.name] = str(error)
                    del workers[engine]
    parameters, bytes_per_second = storyteller.metrics["parameters"], statistics.median(speeds)
    base = next((length / worker.median(1, length) for worker in workers.values() if worker.name == BASE), None)
    rows = []
    for engine, worker in workers.items():
        speed = length / worker.median(1, length)
        rows.append(
            {
                "engine": engine.name,
                "characters_per_second": round(speed, 1),
                "against_pytorch_with_cache": round(speed / base, 2) if base else None,
                "share_of_the_limit": round(speed * parameters * engine.weight_bytes / bytes_per_second, 3),
                "first_character_ms": round(1000 * worker.median(1, 1), 2),
                "start_seconds": round(worker.start_seconds, 2),
                "megabytes": round(worker.megabytes),
                "readers": {str(n): round(n * length / worker.median(n, length), 1) for n in readers if engine.shared},
            }
        )
    return {
        "artifact": folder.name,
        "parameters": parameters,
        "weights": storyteller.hashes["model.safetensors"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "bytes_per_second": round(bytes_per_second),
        "rounds": rounds,
        "characters": length,
        "readers": [str(n) for n in readers],
        "engines": rows,
        "skipped": skipped,
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    readers = result["readers"]
    head = [*LISTED, *(f"{n} readers" for n in readers)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in result["engines"]:
        against = row["against_pytorch_with_cache"]
        cells = [
            row["engine"],
            f"{row['characters_per_second']:,.0f}",
            f"{against:.1f}" if against else "",
            f"{row['share_of_the_limit']:.0%}",
            f"{row['first_character_ms']:.1f}",
            f"{row['start_seconds']:.1f}",
            f"{row['megabytes']:,}",
            *(f"{row['readers'][n]:,.0f}" if n in row["readers"] else "" for n in readers),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\nNot measured: {name}: {reason}" for name, reason in result["skipped"].items()]
    lines.append(
        f"\n{result['artifact']}, {result['parameters']:,} parameters, on {result['machine']}; median of "
        f"{result['rounds']} rounds of {result['characters']} characters, one thread per story; MB are those of one "
        "story's process. The limit: every weight is read once a character from memory, at "
        f"{result['bytes_per_second'] / 1e9:.1f} GB/s as measured between."
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python docs/bench.py", description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, help="a folder such as artifacts/storyteller")
    parser.add_argument("--quick", action="store_true", help="two short rounds, to check that every engine runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f"{args.json}: there is no folder {args.json.parent}; create it or choose another file")
    rounds, length, readers = (2, 20, (2, 8)) if args.quick else (5, 200, (2, 8, 32))
    try:
        result = measure(args.artifact, rounds=rounds, length=length, readers=readers)
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
