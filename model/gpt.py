"""The architecture of today: RMSNorm, rotary positions, QK-norm, SwiGLU, tied embeddings (Qwen3, weight for weight).

Shapes: B batch, T time, S all positions in the cache, C width, H heads, D head width, M hidden width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig

NORM_EPS = 1e-6
ROPE_THETA = 10_000.0
BLOCK = 64  # positions that attend together where training runs compiled on a CPU


class KVCache:
    """Keys and values of the symbols read so far, in buffers that are allocated once for a full context.

    `keys` and `values` are (layers * loops, B, H, context, D); the first `length` positions are filled.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.layers * config.loops, batch_size, config.heads, config.context, config.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def clear(self) -> None:
        self.length = 0

    def check_room(self, time: int) -> None:
        """Raises ValueError if `time` further symbols do not fit."""
        context = self.keys.shape[3]
        if self.length + time > context:
            raise ValueError(f"{time} symbols after {self.length} in the cache exceed the context ({context})")

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v (B, H, T, D) after the first `length` positions; returns all of them, (B, H, S, D) each."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """Causal attention of q (B, H, T, D), the newest T of S positions, over k and v (B, H, S, D) -> (B, H, T, D)."""
    T, S = q.shape[2], k.shape[2]
    if T == S and q.device.type == "cpu" and torch.compiler.is_compiling():
        return attend_by_blocks(q, k, v, scale, dropout)
    if T == S:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale)
    mask = None if T == 1 else causal_mask(T, S, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)


def attend_by_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """What `attend` computes for T == S, a block of positions at a time, each with the keys up to its own end.

    Compiled for a CPU it is two to three times as fast, forward and backward in bf16 together, as the kernel behind
    scaled_dot_product_attention, whose matrices are too small there.
    """
    blocks, T = [], q.shape[2]
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        scores = (q[:, :, start:end] @ k[:, :, :end].transpose(-2, -1)).float() * scale  # (B, H, block, end)
        scores = scores.masked_fill(~causal_mask(end - start, end, q.device), float("-inf"))
        blocks.append(F.dropout(scores.softmax(-1).to(v.dtype), dropout) @ v[:, :, :end])
    return torch.cat(blocks, dim=2)


def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S) of bool: row t, the position S - T + t, sees the columns up to itself."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def causal_softmax(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """The probabilities (B, H, T, T) with which each position looks at itself and at those before it."""
    scores = q @ k.transpose(-2, -1) * scale
    return scores.masked_fill(~causal_mask(*scores.shape[-2:], scores.device), float("-inf")).softmax(-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, rotate-half: x (B, H, T, D) with cos and sin (T, D)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class RMSNorm(nn.RMSNorm):
    """In float32 whatever autocast makes of its input, as Qwen3 has it."""

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
    """ids (B, T) int64 -> logits (B, T, V) float32; with a cache the ids go on from what it has read."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)  # the head as well: it is tied
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        angles = rotary_angles(config)
        self.register_buffer("cos", angles.cos(), persistent=False)  # (context, D)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Normal weights of std 0.02 for the embedding and fan_in ** -0.5 for the matrices; those that write into the
        residual stream are divided by sqrt(2 x depth), so that its variance does not grow with depth (GPT-2)."""
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
        """The residual stream (B, T, C) after `depth` applications of a block."""
        start, T = 0 if cache is None else cache.length, ids.shape[1]
        if cache is not None:
            cache.check_room(T)
        elif self.config.context < T:
            raise ValueError(f"{T} symbols exceed the context ({self.config.context})")
        cos, sin = self.cos[start : start + T], self.sin[start : start + T]
        x = self.dropout(self.embedding(ids))
        for layer in range(depth):
            x = self.blocks[layer % self.config.layers](x, cos, sin, cache, layer)
        return x

    def attention(self, ids: Tensor, layer: int) -> Tensor:
        """Attention probabilities (B, H, T, T) of the block applied as number `layer`, from 0, for ids (B, T)."""
        block = self.blocks[layer % self.config.layers]
        x = block.attention_norm(self.features(ids, None, layer))
        q, k, _ = block.attention.project(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        return causal_softmax(q, k, block.attention.scale)


def rotary_angles(config: ModelConfig) -> Tensor:
    """The angle (context, D) of each position in each dimension; both halves of D turn alike (rotate-half)."""
    frequencies = ROPE_THETA ** (-torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width)
    return torch.outer(torch.arange(config.context, dtype=torch.float32), frequencies).repeat(1, 2)
