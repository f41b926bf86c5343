"""The architecture of the lecture that this project began with: LayerNorm, learned positions, ReLU, untied head.

Shapes: B batch, T time, C width, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import KVCache, attend, causal_softmax
from model.config import ModelConfig


class ClassicAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        # The original scaled its scores by the full width, not by the head width, and its weights need that.
        self.scale = config.width**-0.5
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)  # every head's q, k and v, stacked
        self.out = nn.Linear(config.width, config.width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> q, k, v, each (B, H, T, D)."""
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        q, k, v = self.project(x)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = attend(q, k, v, self.scale, self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))


class ClassicMLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.hidden_width)
        self.down = nn.Linear(config.hidden_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


class ClassicBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = ClassicAttention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = ClassicMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cache, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class ClassicGPT(nn.Module):
    """ids (B, T) int64 -> logits (B, T, V) float32; 211,922 parameters at 82 characters with the preset's shape."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(ClassicBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        x = self.features(ids, cache, self.config.layers)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.head(self.norm(x)).float()

    def features(self, ids: Tensor, cache: KVCache | None, depth: int) -> Tensor:
        """Returns the residual stream (B, T, C) after `depth` blocks."""
        start, T = 0 if cache is None else cache.length, ids.shape[1]
        if cache is not None:
            cache.check_room(T)
        elif self.config.context < T:
            raise ValueError(f"{T} symbols exceed the context ({self.config.context})")
        x = self.embedding(ids) + self.positions(torch.arange(start, start + T, device=ids.device))
        for layer in range(depth):
            x = self.blocks[layer](x, cache, layer)
        return x

    def attention(self, ids: Tensor, layer: int) -> Tensor:
        """Returns the attention probabilities (B, H, T, T) of block `layer`, counted from 0, for ids (B, T)."""
        block = self.blocks[layer]
        q, k, _ = block.attention.project(block.attention_norm(self.features(ids, None, layer)))
        return causal_softmax(q, k, block.attention.scale)
