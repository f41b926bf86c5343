"""One optimiser step, a function of device tensors only. CUDA replays it as a graph; other devices run it eagerly.

Shapes: P numbers in the vector of all parameters, M of them updated by Muon.
"""

from __future__ import annotations

import math
import sys
from collections import Counter

import torch
from torch import Tensor, nn

from train.batches import Batches
from train.distributed import ALONE, Ranks
from train.muon import muon
from train.objective import Objective, precision_of
from train.optim import Parameters, Rates, adamw
from train.presets import TrainConfig

QUEUE_LENGTH = 8  # steps by which the host may be ahead of a GPU
WARM_UP_STEPS = 3  # eager steps for a window size before the capture: in the first ones, libraries initialise
EXPLODED = 10  # times the loss of a uniform guess: a loss above this has exploded; losses that recover stay below 6
SCALE, GROWS_AFTER = 2.0**16, 2000  # loss scale in fp16 and updates until it grows, as in torch.amp.GradScaler
TALLY = ("loss_sum", "counted", "missed", "missed_in_row", "updates", "scale", "since_rescale")


class Step:
    """The tensors that one step reads and writes, all on the device. Calling it runs a step, or queues it on a GPU.

    tally: float32 counters, named in TALLY. Since the last evaluation: the sum and the number of usable losses, and the
    number of steps missed because they had none. Then: the missed steps in a row up to now, the updates, the loss scale
    of fp16, and the updates since that scale changed.
    limit: nats per character above which a loss is not usable. A step with an unusable loss or a gradient that is not
    finite leaves weights and moments unchanged. In fp16 it also halves the scale.
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainConfig,
        device: torch.device,
        teacher: nn.Module | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.device, self.ranks = config, device, ranks
        self.scaled = precision_of(config, device) == "fp16"  # scaling keeps small gradients from becoming zero
        self.limit = EXPLODED * math.log(max(2, config.model.vocab_size))
        self.parameters = Parameters(network, muon=config.optimiser == "muon")
        self.objective = Objective(network, precision_of(config, device), device, teacher)
        self.weights = self.parameters.values  # (P,)
        self.reduced = torch.zeros(len(self.weights) + 1, device=device)  # what ranks exchange: gradient and loss
        self.gradient, self.loss = self.reduced[:-1], self.reduced[-1]
        self.momentum = torch.zeros_like(self.weights[: self.parameters.muon_end])  # (M,)
        self.mean, self.square = torch.zeros(2, len(self.weights) - len(self.momentum), device=device)  # (P - M,)
        self.average = self.weights.clone() if config.ema else None
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.rates = torch.zeros(len(Rates._fields), device=device)
        self.tally = torch.tensor([SCALE if name == "scale" else 0.0 for name in TALLY], device=device)
        # Several ranks use no graph, because they exchange data within a step.
        self.captures = device.type == "cuda" and config.graph and ranks.count == 1
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by window size
        self.eager = Counter[int]()  # number of eager steps, by window size

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a checkpoint must hold."""
        names = ["weights", "momentum", "mean", "square", "number", "tally", *(["average"] if self.config.ema else [])]
        return {name: getattr(self, name) for name in names}

    def __call__(self, batches: Batches) -> None:
        """Runs a step on the next batch, with the rates in `rates`."""
        if batches.context in self.graphs:
            self.graphs[batches.context].replay()
        elif self.captures and self.eager[batches.context] >= WARM_UP_STEPS:
            self.capture(batches)
        else:
            self.eager[batches.context] += 1
            self.advance(batches)

    def capture(self, batches: Batches) -> None:
        """Captures the step as a graph and replays it. If that fails, prints a warning; steps then run eagerly."""
        stream = torch.cuda.current_stream() if self.device.type == "cuda" else None
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # records the kernels without running them
                self.advance(batches)
        except RuntimeError as error:
            if stream:
                torch.cuda.set_stream(stream)  # a failed capture leaves its own stream current
            self.captures, reason = False, str(error.__context__ or error).splitlines()[0]
            print(f"no CUDA graph ({reason}): steps are slower; --no-graph skips the attempt", file=sys.stderr)
            return self.advance(batches)
        self.graphs[batches.context] = graph
        graph.replay()

    def advance(self, batches: Batches) -> None:
        """The step itself. It never waits for the device, and its Python numbers are the same at every step."""
        clip, tally = self.config.clip, dict(zip(TALLY, self.tally.unbind(), strict=True))
        self.differentiate(batches, tally["scale"])
        self.ranks.average(self.reduced)
        norm = self.gradient.norm()
        usable = (self.loss < self.limit) & norm.isfinite()  # a comparison with NaN is false
        gradient = self.gradient
        if self.scaled:
            gradient, norm = gradient / tally["scale"], norm / tally["scale"]
        if clip:
            gradient = gradient * (clip / (norm + 1e-6)).clamp(max=1.0)
        # not torch.where: that would copy Python numbers from the host, which a graph cannot do
        gradient = gradient.masked_fill(~usable, 0.0)
        tally["updates"] += usable
        self.update(gradient, Rates(*self.rates.unbind()), tally["updates"].clamp(min=1.0), usable.float())
        if self.average is not None:
            decay = ((1 + tally["updates"]) / (10 + tally["updates"])).clamp(max=self.config.ema)
            self.average.lerp_(self.weights, 1 - decay)
        tally["loss_sum"] += self.loss.masked_fill(~usable, 0.0)
        tally["counted"] += usable
        tally["missed"] += ~usable
        tally["missed_in_row"].add_(1).mul_(~usable)
        if self.scaled:
            tally["since_rescale"].add_(1).mul_(usable)
            grows = tally["since_rescale"] == GROWS_AFTER
            tally["scale"].mul_(1.0 + grows.float() - 0.5 * (~usable).float())  # doubled or halved
            tally["since_rescale"].mul_(~grows)
        self.number += 1

    def differentiate(self, batches: Batches, scale: Tensor) -> None:
        """Writes the gradient (scaled in fp16) and the loss into `reduced`: the means over `accumulate` batches."""
        count, views = self.config.accumulate, self.parameters.views(self.gradient)
        for micro in range(count):
            loss, objective = self.objective(*batches.batch(self.number * count + micro))
            scaled = (objective * scale if self.scaled else objective) / count
            gradients = torch.autograd.grad(scaled, self.parameters.list)
            loss = loss.detach() / count
            if micro == 0:
                torch._foreach_copy_(views, gradients)
                self.loss.copy_(loss)
            else:
                torch._foreach_add_(views, gradients)
                self.loss.add_(loss)

    def update(self, gradient: Tensor, rates: Rates, updates: Tensor, enabled: Tensor) -> None:
        """Updates the matrices of Muon with Muon, and the rest with AdamW. Changes nothing if `enabled` () is 0."""
        decay, muons = self.config.weight_decay, self.parameters.muon_end
        if muons:
            lr, weights = rates.muon_lr * enabled, self.weights[:muons]
            if decay:
                weights.mul_(1 - lr * decay)
            self.momentum.lerp_(gradient[:muons], (1 - rates.momentum) * enabled)
            nesterov = gradient[:muons].lerp(self.momentum, rates.momentum)
            dtype = torch.float16 if self.scaled else torch.bfloat16
            muon(self.parameters.stacks(weights), self.parameters.stacks(nesterov), lr, dtype)
        adamw(
            self.weights[muons:],
            gradient[muons:],
            self.mean,
            self.square,
            rates=rates,
            updates=updates,
            enabled=enabled,
            decayed=self.weights[muons : self.parameters.matrices_end],
            weight_decay=decay,
        )


class StepQueue:
    """Lets the host enqueue a step up to QUEUE_LENGTH steps before the GPU runs it. Each step has its own rates.

    `latest` is the newest known tally, by the names in TALLY. In fp16 the host waits for each step, because the rates
    of the next step depend on whether this one was an update.
    """

    def __init__(self, step: Step) -> None:
        cuda = step.device.type == "cuda"
        slots = QUEUE_LENGTH if cuda and not step.scaled else 1
        self.step, self.slot = step, 0
        self.rates = torch.zeros(slots, len(Rates._fields), pin_memory=cuda)
        self.tallies = torch.zeros(slots, len(TALLY), pin_memory=cuda).copy_(step.tally)
        self.done = [torch.cuda.Event() for _ in range(slots)] if cuda else []
        self.latest = self.synchronise()

    def wait(self) -> dict[str, float]:
        """Waits for a free slot for one more step. `latest` is then the tally of QUEUE_LENGTH steps ago."""
        if not self.done:
            return self.synchronise()
        self.done[self.slot].synchronize()
        self.latest = dict(zip(TALLY, self.tallies[self.slot].tolist(), strict=True))
        return self.latest

    def enqueue(self, batches: Batches, rates: Rates) -> None:
        """Enqueues a step. Call `wait` first."""
        self.rates[self.slot] = torch.tensor(rates)
        self.step.rates.copy_(self.rates[self.slot], non_blocking=True)
        self.step(batches)
        if self.done:
            self.tallies[self.slot].copy_(self.step.tally, non_blocking=True)
            self.done[self.slot].record()
            self.slot = (self.slot + 1) % len(self.done)

    def synchronise(self) -> dict[str, float]:
        """Waits for the device, and returns the tally after all enqueued steps."""
        self.latest = dict(zip(TALLY, self.step.tally.tolist(), strict=True))
        return self.latest
