"""The loss that a step minimises: cross-entropy of the next character, in the run's precision, eager or compiled.

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
    """The loss of a network on a batch. With a `teacher` (ids to logits, as the network) it distils that."""

    def __init__(self, network: nn.Module, precision: str, device: torch.device, teacher: nn.Module | None) -> None:
        self.network, self.precision, self.device, self.teacher = network, precision, device, teacher
        self.compute: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self.eager

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy () of targets (B, T) given inputs (B, T), in nats per character, and the loss to minimise.

        Without a teacher both are the same. With a teacher the loss to minimise is the mean of the cross-entropy and
        of the divergence of the student's predictions from the teacher's, also in nats per character.
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
            divergence = F.kl_div(logits.log_softmax(-1), expected, reduction="batchmean", log_target=True)
            return loss, (loss + divergence) / 2

    def autocast(self) -> torch.autocast:
        """A context in which arithmetic has the run's precision."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")

    @torch.inference_mode()
    def batch_losses(self, batches: Batches, numbers: Sequence[int], network: nn.Module | None = None) -> Tensor:
        """The loss on each of these batches, without dropout, of `network` (by default the one in training)."""
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
        """Compiles forward and backward pass for windows of these sources. If no compiler works, returns the reason."""
        from torch._dynamo.exc import TorchDynamoException  # imported late: it takes seconds
        from torch._inductor.exc import InductorError

        # The compile cache holds pickles, in a folder that other users may be able to write to.
        torch.compiler.config.force_disable_caches = True
        warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
        self.compute = torch.compile(self.eager, dynamic=False)
        cuda = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda):  # so that dropout is the same with and without compilation
                for batches in sources:
                    torch.autograd.grad(self.compute(*batches.batch(0))[1], parameters)
        except (TorchDynamoException, InductorError) as error:  # no C++ compiler, or a broken one
            self.compute = self.eager
            return type(error).__name__
        return None


def precision_of(config: TrainConfig, device: torch.device) -> str:
    """The precision of the arithmetic. Without CUDA, bf16 replaces fp16. On a GPU without bf16, fp16 replaces bf16."""
    if device.type != "cuda":
        return "bf16" if config.precision == "fp16" else config.precision
    works = torch.cuda.is_bf16_supported(including_emulation=False)
    return "fp16" if config.precision == "bf16" and not works else config.precision
