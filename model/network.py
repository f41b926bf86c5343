"""Builds a network from its ModelConfig."""

from __future__ import annotations

from model.classic import ClassicGPT
from model.config import ModelConfig
from model.gpt import GPT


def build(config: ModelConfig) -> GPT | ClassicGPT:
    """Returns a newly initialised network of this shape, on the CPU in float32."""
    return ClassicGPT(config) if config.architecture == "classic" else GPT(config)
