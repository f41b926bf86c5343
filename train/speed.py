"""How fast a preset trains here: python -m train.speed --preset pocket

It runs the real training step on random characters, and compares its speed with the peak of the device: a product of
large matrices in the same precision, timed in the same run. With --until NATS and --data it trains until the validation
loss reaches NATS, and reports the time. That loss is measured by the original's rule: random windows of 32 characters.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from model.command import run_command
from model.config import ModelConfig
from model.vocab import Vocab
from train.__main__ import fitted, flags
from train.batches import Batches
from train.device import device_name, set_up
from train.distributed import process_group
from train.interrupts import Stop
from train.loop import compile_step, prepared, take_step
from train.run import Run
from train.step import StepQueue
from train.text.corpus import Corpus

ROUNDS = 5
WARM_UP = 10  # untimed steps, in which a GPU also captures its graph
EVERY = 100  # steps between two measurements of the loss
ORIGINAL_RULE = {"context": 32, "batch_size": 16}  # of its validation windows; it used 200 such batches
LAUNCHES = ("LaunchKernel", "GraphLaunch", "MemcpyAsync", "MemsetAsync")  # parts of the names of CUDA calls


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags()
    parser.prog, parser.description = "python -m train.speed", __doc__.splitlines()[0]
    parser.add_argument("--profile", action="store_true", help="show which operations take the time")
    parser.add_argument("--until", type=float, metavar="NATS", help="train on --data until this loss, and time it")
    args = parser.parse_args(argv)
    if args.until is None and args.steps is None:
        args.steps = 50
    try:
        config = fitted(args)
    except (ValueError, KeyError) as error:
        parser.error(str(error))
    set_up(config)
    with process_group(config, Stop()) as ranks:
        text = random_text() if args.until is None else prepared(config, ranks, None)
        run = Run(config, text, Path("unused"), ranks)
        if config.compile is not False:
            compile_step(run)
        found = measure(run) if args.until is None else train_until(run, args.until)
        table = profiled(run) if args.profile else ""
    if ranks.leads:
        print(json.dumps(found), table, sep="\n")
    return 0


def random_text(characters: int = 1_000_000) -> Corpus:
    vocab = Vocab.ascii()
    ids = np.random.default_rng(0).integers(0, len(vocab), characters, dtype=np.uint8)
    ids[0] = ids[-1] = vocab.end
    return Corpus(name="random", vocab=vocab, train=ids, valid=ids[:1000], report={"fingerprint": "", "train": {}})


def measure(run: Run) -> dict[str, Any]:
    """The speed in windows of the whole context: in characters and in floating-point operations per second."""
    run.short, config, queue = run.batches, run.config, StepQueue(run.step)
    steps = max(1, (config.steps or ROUNDS) // ROUNDS)

    def some_steps(count: int = steps) -> None:
        for _ in range(count):
            take_step(run, queue)

    synchronised(run.device, lambda: some_steps(WARM_UP))
    seconds = statistics.median(synchronised(run.device, some_steps) for _ in range(ROUNDS))
    speed = steps * config.batch_size * config.accumulate * config.model.context / seconds
    peak = peak_flops(run.device, run.step.objective.precision) * run.ranks.count
    per_character = flops_per_character(config.model)
    return {
        "preset": config.preset,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "ranks": run.ranks.count,
        "device": device_name(run.device),
        "threads": torch.get_num_threads(),
        "precision": run.step.objective.precision,
        "graph": bool(run.step.graphs),
        "characters_per_second": round(speed),
        "milliseconds_per_step": round(1e3 * seconds / steps, 2),
        "launches_per_step": launches(run.device, lambda: some_steps(10)) / 10,
        "flops_per_character": per_character,
        "flops_per_second": round(speed * per_character),
        "matmul_flops_per_second": round(peak),
        "share": round(speed * per_character / peak, 4),
    }


def train_until(run: Run, nats: float) -> dict[str, Any]:
    """Trains until the loss is at most `nats` by the original's rule, or until the run is over, and times that.

    The time excludes compilation and the measurements of the loss.
    """
    valid = Batches(run.text.valid, seed=run.config.seed + 1, device=run.device, **ORIGINAL_RULE)
    queue, seconds, loss = StepQueue(run.step), 0.0, np.inf

    def some_steps() -> None:
        for _ in range(EVERY):
            take_step(run, queue)
            run.end_of("a step")

    while loss > nats and not run.over():
        seconds += synchronised(run.device, some_steps)
        loss = float(run.step.objective.batch_losses(valid, range(200)).mean())
        run.clock.skip()
        print(f"{seconds:.1f} s, step {run.steps}: {loss:.4f}", file=sys.stderr, flush=True)
    return {
        "preset": run.config.preset,
        "device": device_name(run.device),
        "reached": loss <= nats,
        "loss": round(loss, 4),
        "seconds": round(seconds, 2),
        "steps": run.steps,
        "characters": run.characters,
    }


def flops_per_character(config: ModelConfig) -> int:
    """Operations of forward and backward pass: six per weight of a product, plus attention to half of the context.

    Source: appendix B of PaLM (Chowdhery et al., 2022), with half of its attention because of the causal mask.
    """
    inner = sum(np.prod(shape) for name, shape in config.shapes().items() if len(shape) == 2 and "blocks." in name)
    head = config.vocab_size * config.width
    depth = config.layers * config.loops
    return int(6 * (inner * config.loops + head) + 6 * depth * config.width * config.context)


def peak_flops(device: torch.device, precision: str) -> float:
    """Operations per second of a product of large square matrices. Random ones: a product of ones would be faster."""
    size = 2048 if device.type == "cpu" else 8192
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    synchronised(device, lambda: a @ b)
    return 2 * size**3 / statistics.median(synchronised(device, lambda: a @ b) for _ in range(ROUNDS))


def synchronised(device: torch.device, action: Callable[[], object]) -> float:
    """The seconds that an action takes until the device has finished it."""
    began = time.perf_counter()
    action()
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - began


def launches(device: torch.device, action: Callable[[], object]) -> int:
    """How often the host launches work on a GPU during an action; 0 without a GPU."""
    return sum(event.count for event in traced(device, action) if any(name in event.key for name in LAUNCHES))


def profiled(run: Run, steps: int = 5) -> str:
    queue, by = StepQueue(run.step), "self_cuda_time_total" if run.device.type == "cuda" else "self_cpu_time_total"
    profile = traced(run.device, lambda: [take_step(run, queue) for _ in range(steps)])
    return profile.table(sort_by=by, row_limit=20, max_name_column_width=60)


def traced(device: torch.device, action: Callable[[], object]) -> Any:
    """torch's profile of what an action does on the host and the device."""
    cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *cuda]) as profiler:
        synchronised(device, action)
    return profiler.key_averages()


if __name__ == "__main__":
    run_command(main)
