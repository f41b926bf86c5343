"""All that a trained storyteller needs; torch is imported only by what computes with it."""

from importlib import import_module
from typing import Any

_HOMES = {
    "ModelConfig": "config",
    "Vocab": "vocab",
    "normalise": "vocab",
    "GPT": "gpt",
    "KVCache": "attention",
    "ClassicGPT": "classic",
    "Sampling": "sampling",
    "SETTINGS": "sampling",
    "USUAL": "sampling",
    "pick": "sampling",
    "Decoder": "decoder",
    "TorchDecoder": "decoder",
    "OnnxDecoder": "decoder",
    "Storyteller": "storyteller",
    "load": "storyteller",
    "find": "storyteller",
    "write_default": "artifacts",
    "ArtifactError": "artifacts",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that nobody pays for torch who does not need it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(f"model.{_HOMES[name]}"), name)
