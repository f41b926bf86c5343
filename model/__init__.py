"""Everything that a trained storyteller needs. Only the modules that compute with torch import it."""

from importlib import import_module
from typing import Any

_MODULES = {
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

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562), so that programs without need of torch do not import it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(f"model.{_MODULES[name]}"), name)
