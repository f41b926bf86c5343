"""The modern architecture: RMSNorm, rotary positions, QK-norm, SwiGLU, tied embeddings (exactly that of Qwen3).

Shapes: B batch, T time, C width, H heads, D head width, M hidden width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import KVCache, attend, causal_softmax
from model.config import ROPE_THETA, ModelConfig

NORM_EPS = 1e-6


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, rotate-half: x (B, H, T, D) with cos and sin (T, D)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class RMSNorm(nn.RMSNorm):
    """Computes in float32, whatever the type that autocast gives its input, as Qwen3 does."""

    def __init__(self, width: int) -> None:
        super().__init__(width, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.scale = config.head_width**-0.5
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_norm = RMSNorm(config.head_width)
        self.k_norm = RMSNorm(config.head_width)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> q, k (normalised and rotated) and v, each (B, H, T, D)."""
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        return rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        q, k, v = self.project(x, cos, sin)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = attend(q, k, v, self.scale, self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, C)


class SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.hidden_width, bias=False)
        self.down = nn.Linear(config.hidden_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, T, M) each
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cos, sin, cache, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """ids (B, T) int64 -> logits (B, T, V) float32; with a cache, the ids continue what it has read."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)  # is also the head: the two are tied
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        angles = rotary_angles(config)
        self.register_buffer("cos", angles.cos(), persistent=False)  # (context, D)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Draws normal weights: std 0.02 for the embedding, fan_in ** -0.5 for the matrices.

        The matrices that write into the residual stream are also divided by sqrt(2 x depth), as in GPT-2, so that the
        stream's variance does not grow with depth.
        """
        nn.init.normal_(self.embedding.weight, std=0.02)
        depth = self.config.layers * self.config.loops
        for name, matrix in self.named_parameters():
            if matrix.ndim == 2 and name != "embedding.weight":
                writes = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(matrix, std=matrix.shape[1] ** -0.5 * ((2 * depth) ** -0.5 if writes else 1.0))

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        x = self.features(ids, cache, self.config.layers * self.config.loops)
        if cache is not None:
            cache.length += ids.shape[1]
        return F.linear(self.norm(x), self.embedding.weight).float()

    def features(self, ids: Tensor, cache: KVCache | None, depth: int) -> Tensor:
        """Returns the residual stream (B, T, C) after `depth` applications of a block."""
        start, T = 0 if cache is None else cache.length, ids.shape[1]
        if cache is not None:
            cache.check_room(T)
        elif self.config.context < T:
            raise ValueError(f"{T} symbols exceed the context ({self.config.context})")
        cos, sin = self.cos[start : start + T], self.sin[start : start + T]
        x = self.dropout(stream(self.embedding(ids)))
        for layer in range(depth):
            x = self.blocks[layer % self.config.layers](x, cos, sin, cache, layer)
        return x

    def attention(self, ids: Tensor, layer: int) -> Tensor:
        """Returns the attention probabilities (B, H, T, T) for ids (B, T) in block application `layer`, from 0."""
        block = self.blocks[layer % self.config.layers]
        x = block.attention_norm(self.features(ids, None, layer))
        q, k, _ = block.attention.project(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        return causal_softmax(q, k, block.attention.scale)


def stream(x: Tensor) -> Tensor:
    """Returns x as the residual stream.

    On a GPU under bfloat16 autocast it is bfloat16, for half the memory traffic.
    """
    bf16 = x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    return x.bfloat16() if bf16 else x


def rotary_angles(config: ModelConfig) -> Tensor:
    """Returns the angles (context, D) of each position. Both halves of D rotate by the same angles (rotate-half)."""
    frequencies = ROPE_THETA ** (-torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width)
    return torch.outer(torch.arange(config.context, dtype=torch.float32), frequencies).repeat(1, 2)
