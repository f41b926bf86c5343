"""Engines on the same weights, side by side: python docs/bench.py artifacts/storyteller --quick --json bench.json.

Every engine is a process of its own with one thread per story; in each round they take turns, so that what else the
machine does meets them alike. What another engine needs is exported by `python -m train.export`.
"""

from __future__ import annotations

import argparse
import json
import math
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from model.artifacts import ArtifactError  # noqa: E402
from model.decoder import TorchDecoder  # noqa: E402
from model.sampling import Sampling, pick  # noqa: E402
from model.storyteller import load, tell  # noqa: E402
from page.scheduler import Scheduler  # noqa: E402

Tell = Callable[[str, int], object]  # tells that many characters after a prompt

PROMPT = "Once upon a time, in a big old "  # 31 characters and what opens a story
BASE = "PyTorch, cache"  # what the others are compared with
READ_BYTES = 256 * 2**20  # of what is read to measure the bandwidth: more than any cache holds
HF, LLAMA, OURS = "transformers generate", "llama.cpp, 8 bits", "ONNX Runtime, 8 bits"
TARGETS = {  # of ours, one story, against another engine
    "storyteller": {BASE: 6.0, HF: 10.0, LLAMA: 1.2},
    "pocket": {BASE: 4.0},
}
TOGETHER = 1.8  # eight stories against one
LISTED = ("engine", "characters/s", f"against {BASE}", "share of the limit", "first character, ms", "start, s", "MB")


def sampling(length: int) -> Sampling:
    return Sampling(length=length, temperature=0.8, seed=1, stop_at_end=False)


def plain(path: Path) -> Tell:
    """Without a cache: all of the story is read again for each character."""
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
    vocab, network = storyteller.vocab, storyteller.network
    return lambda prompt, length: list(tell(TorchDecoder(network), vocab, prompt, sampling(length)))


def onnx(path: Path) -> Tell:
    """As the page has it: one scheduler serves all readers."""
    storyteller, scheduler = load(path), Scheduler()
    return lambda prompt, length: list(scheduler.tell(storyteller, prompt, sampling(length)))


def transformers(path: Path) -> Tell:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)

    def run(prompt: str, length: int) -> object:
        ids = tokenizer(prompt, return_tensors="pt")
        limits = dict(max_new_tokens=length, min_new_tokens=length)
        return network.generate(**ids, **limits, do_sample=True, temperature=0.8, top_k=0)

    return run


def llama_cpp(path: Path) -> Tell:
    """In 8 bits, through whichever of its two bindings is installed."""
    [gguf] = path.glob("*-Q8_0.gguf")
    try:
        from llama_cpp import Llama
    except ModuleNotFoundError:
        return xllamacpp(gguf)
    llama = Llama(str(gguf), n_ctx=0, n_threads=1, n_threads_batch=1, verbose=False)

    def run(prompt: str, length: int) -> object:
        llama.reset()
        told = llama.generate(llama.tokenize(prompt.encode()), temp=0.8, top_k=0, top_p=1.0, min_p=0.0)
        return [token for _, token in zip(range(length), told, strict=False)]

    return run


def xllamacpp(gguf: Path) -> Tell:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf)
    settings.n_parallel = settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    whole = dict(temperature=0.8, top_k=0, top_p=1, min_p=0, repeat_penalty=1, ignore_eos=True, cache_prompt=False)
    return lambda prompt, length: server.handle_completions({"prompt": prompt, "n_predict": length, **whole})


# Name, what loads it, the flags of its export, bytes of a weight, and whether several stories run at once in a process.
ENGINES: list[tuple[str, Callable[[Path], Tell], list[str], int, bool]] = [
    ("PyTorch, no cache", plain, [], 4, False),
    (BASE, cached, [], 4, True),
    (HF, transformers, ["--to", "transformers"], 4, False),
    (LLAMA, llama_cpp, ["--to", "gguf"], 1, False),
    ("ONNX Runtime, 32 bits", onnx, ["--to", "onnx", "--bits", "32"], 4, True),
    (OURS, onnx, ["--to", "onnx", "--bits", "8"], 1, True),
]


def work(name: str, path: Path) -> None:
    """The process of an engine: a line of JSON on stdin asks for [readers, characters], one on stdout has seconds."""
    engine = next(engine for engine in ENGINES if engine[0] == name)
    run = engine[1](path)
    run(PROMPT, 1)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        readers, length = json.loads(line)
        began = time.perf_counter()
        if readers == 1:
            run(PROMPT, length)
        else:
            with ThreadPoolExecutor(readers) as pool:
                list(pool.map(run, [PROMPT] * readers, [length] * readers))
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "megabytes": peak_memory()}), flush=True)


def peak_memory() -> float:
    """The most memory that this process has had, in MB; into ru_maxrss Linux counts what its parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Worker:
    """An engine at work in its own process, and what was measured of it."""

    def __init__(self, name: str, path: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.name = name
        command = [sys.executable, __file__, str(path), "--worker", name]
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process; a pipe would fill up)
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True)
        began = time.perf_counter()
        self.process = subprocess.Popen(command, env=environment, **pipes)
        try:
            self.answer()
        except RuntimeError:
            self.close()
            raise
        self.start_seconds = time.perf_counter() - began
        self.megabytes = 0.0  # with one story
        self.seconds: dict[tuple[int, int], list[float]] = {}

    def answer(self) -> dict[str, Any]:
        """The next line of the process. Raises RuntimeError with its last words where it has ended."""
        line = self.process.stdout.readline()
        if not line:
            self.complaints.seek(0)
            raise RuntimeError((self.complaints.read().strip().splitlines() or ["it ended at once"])[-1])
        return json.loads(line)

    def ask(self, readers: int, length: int) -> None:
        with suppress(BrokenPipeError):  # its answer says why
            print(json.dumps([readers, length]), file=self.process.stdin, flush=True)
        answer = self.answer()
        self.seconds.setdefault((readers, length), []).append(answer["seconds"])
        self.megabytes = self.megabytes or answer["megabytes"]

    def median(self, readers: int, length: int) -> float:
        return statistics.median(self.seconds[readers, length])

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
        self.complaints.close()


@contextmanager
def exported(folder: Path, flags: Sequence[str]) -> Iterator[Path]:
    """What an engine opens: the artifact, or what train.export makes of it. Raises RuntimeError where it cannot."""
    with tempfile.TemporaryDirectory() as home:
        path = copy = Path(shutil.copytree(folder, Path(home) / folder.name))
        if flags:
            command = [sys.executable, "-m", "train.export", str(copy), *flags]
            if "onnx" not in flags:
                path = Path(home) / "out"
                command.append(str(path))
            run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if run.returncode:
                raise RuntimeError((run.stderr.strip().splitlines() or ["the export failed"])[-1])
        yield path


def bandwidth() -> float:
    """Bytes that one thread reads from memory in a second."""
    words = np.ones(READ_BYTES // 8, np.uint64)
    began = time.perf_counter()
    np.bitwise_or.reduce(words)
    return READ_BYTES / (time.perf_counter() - began)


def measure(folder: Path, *, rounds: int, length: int, readers: Sequence[int]) -> dict[str, Any]:
    """The figures of every engine that can be had, and why the others could not."""
    folder = folder.resolve()
    storyteller = load(folder)
    parameters = storyteller.metrics["parameters"]
    workers, skipped, speeds = {}, {}, []
    with ExitStack() as stack:
        for name, _, flags, _, _ in ENGINES:
            try:
                worker = workers[name] = Worker(name, stack.enter_context(exported(folder, flags)))
                stack.callback(worker.close)
            except RuntimeError as error:
                skipped[name] = str(error)
        for _ in range(rounds):
            speeds.append(bandwidth())
            for name, *_, together in [engine for engine in ENGINES if engine[0] in workers]:
                try:
                    for count in (1, *(readers if together else ())):
                        workers[name].ask(count, length)
                    workers[name].ask(1, 1)
                except RuntimeError as error:
                    skipped[name] = str(error)
                    del workers[name]
    bytes_per_second = statistics.median(speeds)
    found = [engine for engine in ENGINES if engine[0] in workers]
    base = length / workers[BASE].median(1, length) if BASE in workers else math.nan
    rows = []
    for name, _, _, bytes_per_weight, together in found:
        worker = workers[name]
        speed = length / worker.median(1, length)
        rows.append(
            {
                "engine": name,
                "characters_per_second": round(speed, 1),
                "against_pytorch_with_cache": round(speed / base, 2) if BASE in workers else None,
                "share_of_the_limit": round(speed * parameters * bytes_per_weight / bytes_per_second, 3),
                "first_character_ms": round(1000 * worker.median(1, 1), 2),
                "start_seconds": round(worker.start_seconds, 2),
                "megabytes": round(worker.megabytes),
                "readers": {str(n): round(n * length / worker.median(n, length), 1) for n in readers if together},
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
    """The figures in Markdown."""
    readers = result["readers"]
    head = [*LISTED, *(f"{n} readers" for n in readers)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in result["engines"]:
        together = [f"{row['readers'][n]:,.0f}" if n in row["readers"] else "" for n in readers]
        cells = [
            row["engine"],
            f"{row['characters_per_second']:,.0f}",
            f"{row['against_pytorch_with_cache']:.1f}" if row["against_pytorch_with_cache"] is not None else "",
            f"{row['share_of_the_limit']:.0%}",
            f"{row['first_character_ms']:.1f}",
            f"{row['start_seconds']:.1f}",
            f"{row['megabytes']:,}",
            *together,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\nNot measured: {name}: {reason}" for name, reason in result["skipped"].items()]
    limit = f"{result['bytes_per_second'] / 1e9:.1f} GB/s"
    about = f"{result['artifact']}, {result['parameters']:,} parameters, on {result['machine']}; median of "
    about += f"{result['rounds']} rounds of {result['characters']} characters, one thread per story; MB are those of "
    about += "one story's process. The limit: every weight is read once a character from memory, at "
    lines.append(f"\n{about}{limit} as measured between.")
    return "\n".join([*lines, "", *targets(result)]).strip()


def targets(result: dict[str, Any]) -> list[str]:
    """What was asked for, what was measured, and whether that reaches it, in Markdown."""
    speeds = {row["engine"]: row["characters_per_second"] for row in result["engines"]}
    ours = next((row for row in result["engines"] if row["engine"] == OURS), None)
    if ours is None:
        return []
    asked = [
        (f"one story, against {name}", times, ours["characters_per_second"] / speeds[name])
        for name, times in TARGETS.get(result["artifact"], {}).items()
        if name in speeds
    ]
    if "8" in ours["readers"]:
        asked.append(("8 readers against one", TOGETHER, ours["readers"]["8"] / ours["characters_per_second"]))
    lines = [f"| {OURS} | target, times | measured | |", "|---|---|---|---|"]
    for what, target, found in asked:
        lines.append(f"| {what} | {target:g} | {found:.2f} | {'reached' if found >= target else 'missed'} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python docs/bench.py", description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, help="a folder such as artifacts/storyteller")
    parser.add_argument("--quick", action="store_true", help="two short rounds: does everything run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work(args.worker, args.artifact)
        return 0
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f"{args.json}: there is no folder {args.json.parent}")
    readers = (2, 8) if args.quick else (2, 8, 32)
    try:
        result = measure(
            args.artifact, rounds=2 if args.quick else 5, length=20 if args.quick else 200, readers=readers
        )
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
