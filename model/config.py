"""ModelConfig: the shape of a network. It is checked when it is made, and needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

ARCHITECTURES = ("gpt", "classic")
ROPE_THETA = 10_000.0  # base of the rotary positions of a gpt
MAX_CACHE = 2**28  # bytes for the cache of one story; a page tells eight stories at once


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a network. An invalid field raises ValueError with the value, the limit and the fix.

    `context` is in characters. `hidden` is the width inside the MLP; None stands for 8/3 of `width`, rounded up to a
    multiple of 32, for gpt and 4 x `width` for classic. `loops` says how often the stack of `layers` blocks is applied
    with the same weights.
    """

    architecture: str = "gpt"
    vocab_size: int = 97
    context: int = 512
    layers: int = 6
    heads: int = 6
    width: int = 384
    hidden: int | None = None
    loops: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            close = get_close_matches(str(self.architecture), ARCHITECTURES, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"architecture ({self.architecture!r}) must be one of {', '.join(ARCHITECTURES)}{hint}")
        limits = {"vocab_size": 8192, "context": 65536, "layers": 256, "heads": 256, "width": 16384, "loops": 64}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not _is_int(value) or not 1 <= value <= limit:
                raise ValueError(f"{name} ({value!r}) must be a whole number from 1 to {limit}")
        if self.hidden is not None and (not _is_int(self.hidden) or not 1 <= self.hidden <= 65536):
            raise ValueError(
                f"hidden ({self.hidden!r}) must be a whole number from 1 to 65536, or None for the default"
            )
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout!r}) must be a number from 0 up to, not including, 1")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.architecture == "gpt" and self.head_width % 16:
            raise ValueError(
                f"width / heads ({self.head_width}) must be a multiple of 16 for the exported graphs; "
                f"with width {self.width} use another number of heads"
            )
        for name, value in (("width", self.width), ("hidden", self.hidden_width)):
            if self.architecture == "gpt" and value % 32:
                raise ValueError(f"{name} ({value}) must be a multiple of 32 for the exported 8-bit weights")
        cache = 8 * self.layers * self.loops * self.context * self.width  # bytes of keys and values in float32
        if cache > MAX_CACHE:
            raise ValueError(
                f"context ({self.context}) would take {cache >> 20:,} MiB of memory for each story; the limit is "
                f"{MAX_CACHE >> 20}: lower it, or layers, loops or width"
            )
        if self.architecture == "classic" and self.loops != 1:
            raise ValueError(f"loops ({self.loops}) must be 1 for the classic architecture")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def hidden_width(self) -> int:
        """`hidden`, or the architecture's default."""
        if self.hidden is not None:
            return self.hidden
        return 4 * self.width if self.architecture == "classic" else -(-8 * self.width // 96) * 32

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the name and shape of every weight of the network, to check a weight file without torch."""
        V, C, D, M = self.vocab_size, self.width, self.head_width, self.hidden_width
        if self.architecture == "gpt":
            shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, C), "norm.weight": (C,)}
            block: dict[str, tuple[int, ...]] = {
                "attention_norm.weight": (C,),
                "attention.qkv.weight": (3 * C, C),
                "attention.q_norm.weight": (D,),
                "attention.k_norm.weight": (D,),
                "attention.out.weight": (C, C),
                "mlp_norm.weight": (C,),
                "mlp.gate_up.weight": (2 * M, C),
                "mlp.down.weight": (C, M),
            }
        else:
            shapes = {"embedding.weight": (V, C), "positions.weight": (self.context, C)}
            shapes |= {"norm.weight": (C,), "norm.bias": (C,), "head.weight": (V, C), "head.bias": (V,)}
            block = {
                "attention_norm.weight": (C,),
                "attention_norm.bias": (C,),
                "attention.qkv.weight": (3 * C, C),
                "attention.out.weight": (C, C),
                "attention.out.bias": (C,),
                "mlp_norm.weight": (C,),
                "mlp_norm.bias": (C,),
                "mlp.up.weight": (M, C),
                "mlp.up.bias": (M,),
                "mlp.down.weight": (C, M),
                "mlp.down.bias": (C,),
            }
        for layer in range(self.layers):
            shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
        return shapes


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
