"""The models of a folder, and what all answers need of them: their stories, and the logits of texts they have read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import gradio as gr
import numpy as np

from model import Sampling, Storyteller, find
from model.vocab import compose
from page.limits import Refusal, check_sampling, check_text
from page.scheduler import Scheduler
from page.telling import Telling, in_turn, language, stream
from page.turns import Turns
from page.words import ENGLISH

READ = 8  # texts whose logits are cached, up to 4 MB each: looking at another character of one then costs nothing
EXAMPLES = [  # prompts for a model of English that has none of its own
    "Once upon a time, there was a little robot.",
    "The dragon was afraid of the dark.",
    "Lily found a tiny door behind the big tree.",
    "One rainy day, Tom and his cat",
]
HAS_TORCH = find_spec("torch") is not None
NEEDS_TORCH = "{name} has no model.onnx, which .venv/bin/python -m train.export writes, and PyTorch is not installed"


class Models:
    """The models of a folder, in the order of `model.find`; why others were skipped, and why some are slow."""

    def __init__(self, folder: Path) -> None:
        found, skipped = find(folder)
        for storyteller in found:  # open all graphs now: the page is built next, and shows what is wrong
            if storyteller.open_graph() is None and not HAS_TORCH:
                skipped[storyteller.name] = storyteller.warning or NEEDS_TORCH.format(name=storyteller.name)
        found = [storyteller for storyteller in found if storyteller.name not in skipped]
        self.folder, self.scheduler, self.turns = folder, Scheduler(), Turns()
        self.read = lru_cache(READ)(self._read)
        self.storytellers = {storyteller.name: storyteller for storyteller in found}
        # Visitors can read the reasons, so these must not show where the folder is.
        self.skipped = {name: reason.replace(f"{folder}{os.sep}", "") for name, reason in skipped.items()}
        warnings = {storyteller.name: storyteller.warning for storyteller in found if storyteller.warning}
        self.warnings = {name: reason.replace(f"{folder}{os.sep}", "") for name, reason in warnings.items()}

    def warm_up(self) -> None:
        """Loads every network and runs it once, so that no visitor waits for that."""
        for storyteller in self.storytellers.values():
            for _ in storyteller.tell("", Sampling(length=1)):
                pass

    @property
    def default(self) -> str:
        """The name of the model that the page opens with; "" where there is none."""
        return next(iter(self.storytellers), "")

    def storyteller(self, name: object) -> Storyteller:
        name = name or self.default
        if not isinstance(name, str) or name not in self.storytellers:
            raise Refusal(ENGLISH["refused_model"].format(models=", ".join(self.storytellers)), "model")
        return self.storytellers[name]

    def prompts(self, name: object) -> list[str]:
        """Prompts that suit a model, at most as many as `EXAMPLES` has. Those in its metrics.json come first."""
        storyteller = self.storyteller(name)
        own = storyteller.metrics.get("prompts")
        given = [prompt for prompt in own if isinstance(prompt, str)] if isinstance(own, list) else []
        own = [prompt for each in given if (prompt := compose(each)).strip()]  # without control characters
        english = language(storyteller).split("-")[0] == "en"
        return [*own, *(EXAMPLES if english else [])][: len(EXAMPLES)]

    def example(self, name: object) -> str:
        """The first of these prompts; "", which begins a story from its start, where there is none."""
        return next(iter(self.prompts(name)), "")

    def side_by_side(self) -> list[str]:
        """All models; `classic` and `pocket` first, which compare the recipes of 2023 and of today at one size."""
        pair = ["classic", "pocket"] if {"classic", "pocket"} <= self.storytellers.keys() else []
        return pair + [name for name in self.storytellers if name not in pair]

    def _read(self, name: str, text: str) -> np.ndarray:
        """The logits (T + 1, V) before each of the text's T characters and after the last; `read` caches the latest."""
        storyteller = self.storytellers[name]
        ids = [storyteller.vocab.start, *storyteller.vocab.encode(text)]
        return np.concatenate(list(storyteller.logits(ids)))

    def telling(self, request: gr.Request, model: object, prompt: object, *settings: object) -> Iterator[Telling]:
        """The story as it grows, with its figures. The parameters are those of /tell. Raises Refusal."""
        storyteller, sampling = self.storyteller(model), check_sampling(*settings)
        told = stream(storyteller, check_text("prompt", prompt), sampling, scheduler=self.scheduler)
        return in_turn(self.turns.take("stories", request), told)
