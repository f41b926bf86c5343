"""The ranks (processes of torchrun) that train one model: how they share the work and exchange results."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from model.artifacts import utf8_safe
from train.batches import rows_of
from train.device import pick_device
from train.interrupts import Interrupted, Stop
from train.presets import TrainConfig

GRACE = 10.0  # seconds within which torchrun ends a rank after another rank has failed
TIMEOUT = timedelta(hours=2)  # for the ranks that wait while one downloads and prepares the text

T = TypeVar("T")


class RankLost(ConnectionError):
    """Another rank has ended, so this one cannot continue."""


@contextmanager
def collective() -> Iterator[None]:
    """For operations that all ranks must take part in. Raises RankLost if another rank has ended."""
    try:
        yield
    except RuntimeError as error:  # gloo and nccl have no exception class of their own
        reason = re.sub(r"^\[\S+\] ", "", str(error)).split(". ")[0].splitlines()[0]  # without file name and advice
        fix = "read its error, then go on with the same command and --resume"
        raise RankLost(f"another rank has ended ({reason}): {fix}") from error


@dataclass(frozen=True)
class Ranks:
    """The rank of this process and the number of ranks. A single process is rank 0 of 1, and every method is then free.

    The gradient of a step is one vector, which the ranks reduce after the backward passes. DistributedDataParallel
    would wrap the network and reduce during the backward pass. That is not worth it for a few megabytes.
    """

    rank: int = 0
    count: int = 1
    local: int = 0  # the number of this rank on its machine

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes the files and prints for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor by its sum over the ranks, and returns it."""
        if self.count > 1:
            with collective():
                distributed.all_reduce(tensor)
        return tensor

    def average(self, tensor: Tensor) -> None:
        """Replaces a tensor by its mean over the ranks. If it is infinite or NaN on one rank, it becomes so on all."""
        if self.count > 1:
            self.sum(tensor).div_(self.count)

    def broadcast(self, value: T) -> T:
        """Returns the value of rank 0 on every rank."""
        if self.count == 1:
            return value
        values = [value]
        with collective():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def heartbeat(self, seconds: float, signal: int, *flags: bool) -> tuple[float, int, list[bool]]:
        """Shares clocks and signals before a step: rank 0's seconds and flags, and a signal that any rank received.

        The hosts exchange these, not the devices, so a GPU continues with its queued work.
        """
        if self.count == 1:
            return seconds, signal, list(flags)
        ours = [seconds, *flags] if self.leads else [-1.0] * (1 + len(flags))  # so the maximum is the value of rank 0
        values = torch.tensor([*ours, signal], dtype=torch.float64)
        with collective():
            distributed.all_reduce(values, distributed.ReduceOp.MAX)
        seconds, *flags, signal = values.tolist()
        return seconds, int(signal), [bool(flag) for flag in flags]

    def seed(self, seed: int, step: int) -> None:
        """Seeds different dropout on every rank, as a pure function of (seed, step, rank): a resumed run repeats it."""
        if self.count > 1:
            torch.manual_seed(int(np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)[0]))

    def sharded(
        self, score: Callable[..., tuple[np.ndarray, np.ndarray]]
    ) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """`train.evaluate.score` with the sequences split among the ranks. Every rank gets the whole result."""
        if self.count == 1:
            return score

        def shared(network: Any, sequences: Sequence[Sequence[int]], **options: int) -> tuple[np.ndarray, ...]:
            both = np.zeros((2, len(sequences)))
            both[:, self.rank :: self.count] = score(network, sequences[self.rank :: self.count], **options)
            self.sum(torch.from_numpy(both))
            return both[0], both[1].astype(np.int64)

        return shared

    def require_same(self, value: str, what: str) -> None:
        """Raises ValueError if the value of this rank differs from that of rank 0."""
        if self.broadcast(value) != value:
            raise ValueError(
                f"the {what} of this machine ({value}) differs from that of rank 0: give all machines the same {what}"
            )

    def in_turn(self, prepare: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Calls `prepare` on every rank in turns, so that a later rank can use what an earlier one has cached.

        Rank 0 is first. Then comes the first rank of each other machine, which may share the disk. Then the rest.
        """
        ours = 0 if self.leads else 1 if self.local == 0 else 2
        for turn in range(3):
            if turn == ours:
                result = prepare(*arguments, **options)
            self.barrier()
        return result

    def barrier(self) -> None:
        """Waits until all ranks have called it."""
        self.sum(torch.zeros(1))

    def say(self, line: str) -> None:
        """Prints a line to standard error, on rank 0 only."""
        if self.leads:
            print(utf8_safe(line), file=sys.stderr)


ALONE = Ranks()


@contextmanager
def process_group(config: TrainConfig, stop: Stop) -> Iterator[Ranks]:
    """Connects the ranks that torchrun started. Gives ALONE for a run without torchrun.

    Raises ValueError for settings that cannot run on these ranks. If another rank is lost, this rank waits until
    torchrun ends it, because torchrun knows and reports which rank failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
        yield ALONE
        return
    ranks = Ranks(*(int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    device = rank_device(ranks, config)
    rows_of(config.batch_size, (ranks.rank, ranks.count))
    ours = not distributed.is_initialized()
    if ours:
        with collective():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield ranks
    except RankLost:
        if stop.received:
            raise Interrupted(stop.received) from None
        time.sleep(GRACE)  # torchrun's SIGTERM raises Interrupted here
        raise
    except Exception as error:  # keep the process group: destroying it could wait for ranks that wait for this one
        get_error_handler().record_exception(error)  # for torchrun's summary
        raise
    if ours:
        distributed.destroy_process_group()


def rank_device(ranks: Ranks, config: TrainConfig) -> torch.device:
    """Selects the device of this rank. Raises ValueError if not every rank can have its own."""
    if ":" in config.device:
        raise ValueError(
            f"device ({config.device}) is a single GPU for {ranks.count} ranks: give cuda, so that each has its own"
        )
    gpus = torch.cuda.device_count()
    if config.device != "cpu" and 0 < gpus <= ranks.local:
        raise ValueError(
            f"rank {ranks.rank} has no GPU of its own: --nproc_per_node must be at most {gpus} on this machine"
        )
    if config.device != "cpu" and gpus:
        torch.cuda.set_device(ranks.local)
    device = pick_device(config.device)
    if device.type == "mps":
        raise ValueError(f"device (mps) cannot serve {ranks.count} ranks: give --device cpu, or run without torchrun")
    return device
