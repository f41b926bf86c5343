"""One optimiser step, a function of device tensors alone: on CUDA a graph that is replayed, elsewhere the same, eager.

Shapes: P numbers in the vector of all parameters, M those that Muon moves.
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

AHEAD = 8  # steps that the host may be ahead of a GPU
WARM = 3  # steps of a window size that run eagerly before one is captured: in the first, libraries set themselves up
WORSE = 10  # times the loss of a guess among all symbols: above it a loss has exploded; what recovers stays below 6
SCALE, GROWS_AFTER = 2.0**16, 2000  # of the loss in fp16, as torch.amp.GradScaler has them
TALLY = ("loss_sum", "counted", "missed", "row", "updates", "scale", "good")


class Step:
    """What one step reads and writes, all of it on the device. Calling it does a step, or has a GPU do it later.

    tally: float32 numbers by TALLY: sum and number of the usable losses, and number of the steps without one, since the
    last evaluation; steps without one in a row up to now; updates; the scale of fp16, and updates since it changed.
    limit: nats per character above which a loss is not usable. A step without a usable loss, or with a gradient that
    is not finite, leaves weights and moments as they are; in fp16 it halves the scale as well.
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
        self.scaled = precision_of(config, device) == "fp16"  # so that small gradients are no zeros
        self.limit = WORSE * math.log(max(2, config.model.vocab_size))
        self.parameters = Parameters(network, muon=config.optimiser == "muon")
        self.objective = Objective(network, precision_of(config, device), device, teacher)
        self.weights = self.parameters.values  # (P,)
        self.reduced = torch.zeros(len(self.weights) + 1, device=device)  # what ranks exchange: the gradient, the loss
        self.gradient, self.loss = self.reduced[:-1], self.reduced[-1]
        self.momentum = torch.zeros_like(self.weights[: self.parameters.by_muon])  # (M,)
        self.mean, self.square = torch.zeros(2, len(self.weights) - len(self.momentum), device=device)  # (P - M,)
        self.average = self.weights.clone() if config.ema else None
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.rates = torch.zeros(len(Rates._fields), device=device)
        self.tally = torch.tensor([SCALE if name == "scale" else 0.0 for name in TALLY], device=device)
        # Several ranks do without a graph: what they exchange is not theirs alone.
        self.captures = device.type == "cuda" and config.graph and ranks.count == 1
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by window size
        self.eager = Counter[int]()  # steps that ran so, by window size

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold of it."""
        names = ["weights", "momentum", "mean", "square", "number", "tally", *(["average"] if self.config.ema else [])]
        return {name: getattr(self, name) for name in names}

    def __call__(self, batches: Batches) -> None:
        """A step on the next batch, at the rates in `rates`."""
        if batches.context in self.graphs:
            self.graphs[batches.context].replay()
        elif self.captures and self.eager[batches.context] >= WARM:
            self.capture(batches)
        else:
            self.eager[batches.context] += 1
            self.advance(batches)

    def capture(self, batches: Batches) -> None:
        """Makes the step a graph and replays it. Where that fails, a line says so, and steps stay as they are."""
        stream = torch.cuda.current_stream() if self.device.type == "cuda" else None
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # this records the kernels and runs none
                self.advance(batches)
        except RuntimeError as error:
            if stream:
                torch.cuda.set_stream(stream)  # a capture that fails stays on its own
            self.captures, reason = False, str(error.__context__ or error).splitlines()[0]
            print(f"no CUDA graph ({reason}), so slower: --no-graph does without", file=sys.stderr)
            return self.advance(batches)
        self.graphs[batches.context] = graph
        graph.replay()

    def advance(self, batches: Batches) -> None:
        """The step itself. Nothing in it waits for the device, and no Python number in it changes between steps."""
        clip, tally = self.config.clip, dict(zip(TALLY, self.tally.unbind(), strict=True))
        self.differentiate(batches, tally["scale"])
        self.ranks.average(self.reduced)
        norm = self.gradient.norm()
        usable = (self.loss < self.limit) & norm.isfinite()  # NaN is below nothing
        gradient = self.gradient
        if self.scaled:
            gradient, norm = gradient / tally["scale"], norm / tally["scale"]
        if clip:
            gradient = gradient * (clip / (norm + 1e-6)).clamp(max=1.0)
        # torch.where would bring its Python numbers from the host, for which no graph has time
        gradient = gradient.masked_fill(~usable, 0.0)
        tally["updates"] += usable
        self.update(gradient, Rates(*self.rates.unbind()), tally["updates"].clamp(min=1.0), usable.float())
        if self.average is not None:
            decay = ((1 + tally["updates"]) / (10 + tally["updates"])).clamp(max=self.config.ema)
            self.average.lerp_(self.weights, 1 - decay)
        tally["loss_sum"] += self.loss.masked_fill(~usable, 0.0)
        tally["counted"] += usable
        tally["missed"] += ~usable
        tally["row"].add_(1).mul_(~usable)
        if self.scaled:
            tally["good"].add_(1).mul_(usable)
            grows = tally["good"] == GROWS_AFTER
            tally["scale"].mul_(1.0 + grows.float() - 0.5 * (~usable).float())  # twice, or half, of what it was
            tally["good"].mul_(~grows)
        self.number += 1

    def differentiate(self, batches: Batches, scale: Tensor) -> None:
        """Puts the gradient, in fp16 scaled, and the loss into `reduced`: the means over `accumulate` batches."""
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

    def update(self, gradient: Tensor, rates: Rates, updates: Tensor, on: Tensor) -> None:
        """Muon on its matrices, AdamW on the rest; nothing where `on` () is 0."""
        decay, muons = self.config.weight_decay, self.parameters.by_muon
        if muons:
            lr, weights = rates.muon_lr * on, self.weights[:muons]
            if decay:
                weights.mul_(1 - lr * decay)
            self.momentum.lerp_(gradient[:muons], (1 - rates.momentum) * on)
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
            on=on,
            decayed=self.weights[muons : self.parameters.decayed],
            weight_decay=decay,
        )


class Ahead:
    """Lets the host call a step up to AHEAD steps before a GPU does it, each at its own rates.

    `seen` is the newest known tally, by TALLY. In fp16 the host waits for each step: whether that was an update decides
    about the next one's rates.
    """

    def __init__(self, step: Step) -> None:
        cuda = step.device.type == "cuda"
        places = AHEAD if cuda and not step.scaled else 1
        self.step, self.place = step, 0
        self.rates = torch.zeros(places, len(Rates._fields), pin_memory=cuda)
        self.tallies = torch.zeros(places, len(TALLY), pin_memory=cuda).copy_(step.tally)
        self.done = [torch.cuda.Event() for _ in range(places)] if cuda else []
        self.seen = self.look()

    def wait(self) -> dict[str, float]:
        """Waits until the rates of one more step may be written; `seen` is then the tally AHEAD steps ago."""
        if not self.done:
            return self.look()
        self.done[self.place].synchronize()
        self.seen = dict(zip(TALLY, self.tallies[self.place].tolist(), strict=True))
        return self.seen

    def go(self, batches: Batches, rates: Rates) -> None:
        """Calls the step. `wait` comes before."""
        self.rates[self.place] = torch.tensor(rates)
        self.step.rates.copy_(self.rates[self.place], non_blocking=True)
        self.step(batches)
        if self.done:
            self.tallies[self.place].copy_(self.step.tally, non_blocking=True)
            self.done[self.place].record()
            self.place = (self.place + 1) % len(self.done)

    def look(self) -> dict[str, float]:
        """The tally after all steps that were called: waits for the device."""
        self.seen = dict(zip(TALLY, self.step.tally.tolist(), strict=True))
        return self.seen
