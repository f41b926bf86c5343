"""How fast a preset trains here: python -m train.speed --preset pocket

Runs the training step itself on text of random characters, and relates it to what the device can do at most: a product
of large matrices in the same precision, timed in the same run.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from model.config import ModelConfig
from model.vocab import Vocab
from train.__main__ import configure, flags
from train.device import device_name
from train.distributed import joined
from train.interrupts import Stop
from train.loop import Run
from train.presets import TrainConfig
from train.text.corpus import Corpus

ROUNDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags()
    parser.prog, parser.description = "python -m train.speed", __doc__.splitlines()[0]
    parser.add_argument("--profile", action="store_true", help="show what the time goes into")
    args = parser.parse_args(argv)
    args.steps = args.steps or 50
    try:
        config = configure(args)
    except (ValueError, KeyError) as error:
        parser.error(str(error))
    if config.threads:
        torch.set_num_threads(config.threads)
    with joined(config, Stop()) as ranks:
        run = Run(config, random_text(), Path("unused"), ranks)
        measured, table = json.dumps(measure(run, config)), profile(run) if args.profile else ""
    if ranks.leads:
        print(measured, table, sep="\n")
    return 0


def random_text(characters: int = 1_000_000) -> Corpus:
    vocab = Vocab.ascii()
    ids = np.random.default_rng(0).integers(0, len(vocab), characters, dtype=np.uint8)
    ids[0] = ids[-1] = vocab.end
    return Corpus(name="random", vocab=vocab, train=ids, valid=ids[:1000], report={"fingerprint": "", "train": {}})


def measure(run: Run, config: TrainConfig) -> dict[str, object]:
    """Characters per second in windows of the whole context, and that in floating-point operations per second."""
    run.short = run.batches
    steps = max(1, (config.steps or ROUNDS) // ROUNDS)
    synchronised(run.device, run.train_step)  # compiles
    seconds = statistics.median(
        synchronised(run.device, lambda: [run.train_step() for _ in range(steps)]) for _ in range(ROUNDS)
    )
    speed = steps * config.batch_size * config.accumulate * config.model.context / seconds
    peak = peak_flops(run.device, run.precision) * run.ranks.count
    per_character = flops_per_character(run.config.model)
    return {
        "preset": config.preset,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "ranks": run.ranks.count,
        "device": device_name(run.device),
        "threads": torch.get_num_threads(),
        "precision": run.precision,
        "characters_per_second": round(speed),
        "milliseconds_per_step": round(1e3 * seconds / steps, 2),
        "flops_per_character": per_character,
        "flops_per_second": round(speed * per_character),
        "matmul_flops_per_second": round(peak),
        "share": round(speed * per_character / peak, 4),
    }


def flops_per_character(config: ModelConfig) -> int:
    """Forward and backward: six for each weight of a product, and attention to half of the context on average.

    Source: appendix B of PaLM (Chowdhery et al., 2022), with the half that a causal mask leaves.
    """
    inner = sum(np.prod(shape) for name, shape in config.shapes().items() if len(shape) == 2 and "blocks." in name)
    head = config.vocab_size * config.width
    depth = config.layers * config.loops
    return int(6 * (inner * config.loops + head) + 6 * depth * config.width * config.context)


def peak_flops(device: torch.device, precision: str) -> float:
    """Operations per second of a product of large square matrices."""
    size = 2048 if device.type == "cpu" else 8192
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    a, b = torch.ones(2, size, size, device=device, dtype=dtype)
    synchronised(device, lambda: a @ b)
    return 2 * size**3 / statistics.median(synchronised(device, lambda: a @ b) for _ in range(ROUNDS))


def synchronised(device: torch.device, action: Callable[[], object]) -> float:
    """Seconds that an action takes until the device is done with it."""
    began = time.perf_counter()
    action()
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - began


def profile(run: Run, steps: int = 5) -> str:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if run.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        synchronised(run.device, lambda: [run.train_step() for _ in range(steps)])
    by = "self_cuda_time_total" if run.device.type == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60)


if __name__ == "__main__":
    sys.exit(main())
