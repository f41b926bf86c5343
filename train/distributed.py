"""The processes of torchrun that train one model together: their shares, and how they agree."""

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

from train.batches import rows_of
from train.device import pick_device
from train.interrupts import Interrupted, Stop
from train.presets import TrainConfig

GRACE = 10.0  # seconds in which torchrun ends a rank whose neighbour is gone
TIMEOUT = timedelta(hours=2)  # ranks wait so long for the one that downloads and prepares the text

T = TypeVar("T")


class RankLost(ConnectionError):
    """Another rank is gone, so this one cannot go on."""


@contextmanager
def together() -> Iterator[None]:
    """Within, what all ranks must do at once: raises RankLost when one does not come."""
    try:
        yield
    except RuntimeError as error:  # gloo and nccl have no kind of their own for it
        reason = re.sub(r"^\[\S+\] ", "", str(error)).split(". ")[0].splitlines()[0]  # without file and good wishes
        mend = "see what it said, then go on with the same command and --resume"
        raise RankLost(f"another rank is gone ({reason}): {mend}") from error


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of its run; alone it is rank 0 of 1, and every method costs nothing.

    A step has its gradient as one vector, which is reduced after the backward passes. DistributedDataParallel would
    wrap the network to hide that behind them, which is not worth it for a few megabytes.
    """

    rank: int = 0
    count: int = 1
    local: int = 0  # its number on this machine

    @property
    def leads(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor, replaced by its sum over the ranks."""
        if self.count > 1:
            with together():
                distributed.all_reduce(tensor)
        return tensor

    def average(self, tensor: Tensor) -> None:
        """Replaces a tensor by its mean over the ranks. What is infinite or NaN on one becomes so for all."""
        if self.count > 1:
            self.sum(tensor).div_(self.count)

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.count == 1:
            return value
        values = [value]
        with together():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def heartbeat(self, seconds: float, signal: int, *flags: bool) -> tuple[float, int, list[bool]]:
        """What clocks and signals say of the next step: rank 0's seconds and flags, and the signal that anyone heard.

        The hosts talk, not the devices: a GPU goes on with the work it has meanwhile.
        """
        if self.count == 1:
            return seconds, signal, list(flags)
        said = [seconds, *flags] if self.leads else [-1.0] * (1 + len(flags))
        heard = torch.tensor([*said, signal], dtype=torch.float64)
        with together():
            distributed.all_reduce(heard, distributed.ReduceOp.MAX)
        seconds, *flags, signal = heard.tolist()
        return seconds, int(signal), [bool(flag) for flag in flags]

    def seed(self, seed: int, step: int) -> None:
        """Other dropout on every rank: a pure function of (seed, step, rank), so that a resumed run has it again."""
        if self.count > 1:
            torch.manual_seed(int(np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)[0]))

    def sharded(
        self, score: Callable[..., tuple[np.ndarray, np.ndarray]]
    ) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """`train.evaluate.score` with its sequences shared among the ranks; each of them has the whole result."""
        if self.count == 1:
            return score

        def shared(network: Any, sequences: Sequence[Sequence[int]], **options: int) -> tuple[np.ndarray, ...]:
            both = np.zeros((2, len(sequences)))
            both[:, self.rank :: self.count] = score(network, sequences[self.rank :: self.count], **options)
            self.sum(torch.from_numpy(both))
            return both[0], both[1].astype(np.int64)

        return shared

    def require_same(self, value: str, what: str) -> None:
        """Raises ValueError where this rank's value is another than that of rank 0."""
        if self.agree(value) != value:
            raise ValueError(
                f"the {what} of this machine ({value}) is not that of rank 0: give all machines the same one"
            )

    def in_turn(self, prepare: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """The result of `prepare` on every rank, none of which does what another is doing.

        Rank 0 goes first, then the first one of each other machine, whose disk may be the same, then the rest.
        """
        ours = 0 if self.leads else 1 if self.local == 0 else 2
        for turn in range(3):
            if turn == ours:
                result = prepare(*arguments, **options)
            self.barrier()
        return result

    def barrier(self) -> None:
        """Waits until all are here."""
        self.sum(torch.zeros(1))

    def say(self, line: str) -> None:
        """Prints a line to standard error, once."""
        if self.leads:
            print(line, file=sys.stderr)


ALONE = Ranks()


@contextmanager
def joined(config: TrainConfig, stop: Stop) -> Iterator[Ranks]:
    """The ranks that torchrun started, ready to talk; alone where it did not. Raises ValueError for what cannot be run.

    When another rank is lost, this one waits for torchrun, which knows which one failed, to end it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
        yield ALONE
        return
    ranks = Ranks(*(int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    device = device_of(ranks, config)
    rows_of(config.batch_size, (ranks.rank, ranks.count))
    ours = not distributed.is_initialized()
    if ours:
        with together():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield ranks
    except RankLost:
        if stop.received:
            raise Interrupted(stop.received) from None
        time.sleep(GRACE)  # torchrun's SIGTERM ends this by Interrupted
        raise
    except Exception as error:  # the group is not left: that could wait for ranks that wait for this one
        get_error_handler().record_exception(error)  # for torchrun's summary
        raise
    if ours:
        distributed.destroy_process_group()


def device_of(ranks: Ranks, config: TrainConfig) -> torch.device:
    """The device of this rank, made the current one. Raises ValueError where ranks cannot have one each."""
    if ":" in config.device:
        raise ValueError(f"device ({config.device}) would be that of all {ranks.count} ranks: give cuda, one for each")
    gpus = torch.cuda.device_count()
    if config.device != "cpu" and 0 < gpus <= ranks.local:
        raise ValueError(f"rank {ranks.rank} finds no GPU of its own: --nproc_per_node must be at most {gpus} here")
    if config.device != "cpu" and gpus:
        torch.cuda.set_device(ranks.local)
    device = pick_device(config.device)
    if device.type == "mps":
        raise ValueError(f"device (mps) is one for all {ranks.count} ranks: give --device cpu, or do without torchrun")
    return device
