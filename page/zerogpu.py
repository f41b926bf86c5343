"""ZeroGPU, the free hardware of a Space: it starts no page without a function marked for the GPU."""

from __future__ import annotations


def register() -> bool:
    """Marks one function for the GPU where the package `spaces` is installed, as it is on every Gradio Space.

    Call it before torch is imported. Stories are told on the CPU, so nobody waits for a GPU or spends a quota.
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
    """Never called: it is there to be marked."""
