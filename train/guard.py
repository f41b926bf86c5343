"""Steps without a usable loss: they change next to nothing, and too many in a row end the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROW = 20  # steps without a usable loss, one after the other, that end a run; so often the host looks
WORSE = 10  # times the loss of a guess among all symbols: above it a loss has exploded; what recovers stays below 6


class Diverged(ValueError):
    """The loss is no longer a finite number, or far too large."""


class Guard:
    """Judges the loss and the gradients of each step on their device, so that no GPU waits for the host.

    limit: nats per character, above which a loss has exploded. row (): steps without a usable loss up to now, one after
    the other. missed (): all of them since the last evaluation.
    """

    def __init__(self, symbols: int, device: torch.device) -> None:
        self.limit = WORSE * math.log(max(2, symbols))
        self.row = torch.zeros((), dtype=torch.int64, device=device)
        self.missed = torch.zeros_like(self.row)

    def usable(self, losses: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """Whether the losses () of a step are below the limit and its gradients finite, as a bool (); counts it."""
        norms = torch.stack(torch._foreach_norm(gradients))
        fine = (torch.stack(list(losses)).max() < self.limit) & norms.sum().isfinite()  # NaN is below nothing
        self.row = torch.where(fine, 0, self.row + 1)
        self.missed += ~fine
        return fine

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"guard.row": self.row, "guard.missed": self.missed}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The reverse; a checkpoint of format 2 has none of it."""
        for name, own in self.tensors().items():
            own.copy_(tensors.get(name, torch.zeros(())))
