"""What a step makes smaller: the surprise at each next character, in the run's precision, eager or compiled.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.batches import Batches
from train.presets import TrainConfig


class Objective:
    """The loss of a network on a batch; with a `teacher` (ids to logits, as the network) that of its pupil."""

    def __init__(self, network: nn.Module, precision: str, device: torch.device, teacher: nn.Module | None) -> None:
        self.network, self.precision, self.device, self.teacher = network, precision, device, teacher
        self.compute: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self.eager

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The mean nats per character () of targets (B, T) given inputs (B, T), and what a step makes smaller.

        That is the same or, of a pupil, the mean of it and of the divergence (in nats per character) of its predictions
        from its teacher's.
        """
        return self.compute(inputs, targets)

    def eager(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with self.autocast():
            logits = self.network(inputs).flatten(0, 1)  # (B * T, V)
            loss = F.cross_entropy(logits, targets.flatten())
            if self.teacher is None:
                return loss, loss
            with torch.no_grad():
                expected = self.teacher(inputs).log_softmax(-1).flatten(0, 1)
            apart = F.kl_div(logits.log_softmax(-1), expected, reduction="batchmean", log_target=True)
            return loss, (loss + apart) / 2

    def autocast(self) -> torch.autocast:
        """The run's precision, for the arithmetic within."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")

    @torch.inference_mode()
    def probe(self, batches: Batches, numbers: Sequence[int], network: nn.Module | None = None) -> Tensor:
        """The loss of `network`, the own one unless given, on each of these batches, without dropout."""
        network = network or self.network
        network.eval()
        losses = torch.zeros(len(numbers), device=self.device)
        for place, number in enumerate(numbers):
            inputs, targets = batches.batch(number)
            with self.autocast():
                losses[place] = F.cross_entropy(network(inputs).flatten(0, 1), targets.flatten())
        network.train()
        return losses

    def compile(self, sources: Sequence[Batches], parameters: Sequence[Tensor]) -> str | None:
        """Has forward and backward pass compiled for windows of these sources; where no compiler works, why."""
        from torch._dynamo.exc import TorchDynamoException  # seconds that an eager run need not spend
        from torch._inductor.exc import InductorError

        # What was compiled before would be kept as pickles, in a folder that others may be able to write to.
        torch.compiler.config.force_disable_caches = True
        warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
        self.compute = torch.compile(self.eager, dynamic=False)
        cuda = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda):  # a run has the same dropout with and without
                for batches in sources:
                    torch.autograd.grad(self.compute(*batches.batch(0))[1], parameters)
        except (
            TorchDynamoException,
            InductorError,
        ) as error:  # no C++ compiler, or none that works here
            self.compute = self.eager
            return type(error).__name__
        return None


def precision_of(config: TrainConfig, device: torch.device) -> str:
    """That of the arithmetic: elsewhere than on CUDA bf16 stands in for fp16, on a GPU without bf16 fp16 for bf16."""
    if device.type != "cuda":
        return "bf16" if config.precision == "fp16" else config.precision
    works = torch.cuda.is_bf16_supported(including_emulation=False)
    return "fp16" if config.precision == "bf16" and not works else config.precision
