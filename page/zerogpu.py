"""ZeroGPU, the free hardware of a Space, starts a page only if it has a function marked for the GPU."""

from __future__ import annotations


def register() -> bool:
    """Marks one function for the GPU where the package `spaces` is installed, as on every Gradio Space.

    Call it before torch is imported. Stories are told on the CPU, so no visitor waits for a GPU or uses up a quota.
    """
    try:
        import spaces
    except ModuleNotFoundError as error:
        if error.name != "spaces":
            raise
        return False
    spaces.GPU(on_the_gpu)
    return True


def on_the_gpu() -> None:
    """Does nothing, and is never called: ZeroGPU requires one marked function."""
