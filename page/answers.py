"""What the tabs of the page call: continue a story, compare models, colours, chances, attention."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from model import TorchDecoder
from model.vocab import visible
from page.endpoints import LIKELIEST, Endpoints, expected
from page.limits import MAX_STORY, MAX_TEXT, Refusal, check_sampling, check_text, check_whole
from page.models import HAS_TORCH, Models
from page.scheduler import at_low_priority
from page.telling import Telling, in_turn, language, stream, stream_together
from page.words import ENGLISH


class Answers:
    """The answers for the tabs. `endpoints` holds those that programs can call too."""

    def __init__(self, models: Models) -> None:
        self.models, self.endpoints = models, Endpoints(models)

    def go_on(
        self, request: gr.Request, model: object, story: object, prompt_length: object, *settings: object
    ) -> Iterator[Telling]:
        """Continues the story that the page shows. Its first `prompt_length` characters are the visitor's own."""
        storyteller, sampling = self.models.storyteller(model), check_sampling(*settings)
        story = check_text("story", story, MAX_STORY, "refused_story_long")
        if not story:
            raise Refusal(ENGLISH["refused_none"], "prompt")
        cut = check_whole("prompt_length", prompt_length, 0, len(story))
        parts = dict(shown=story[:cut], before=story[cut:])
        told = stream(storyteller, story[-MAX_TEXT:], sampling, scheduler=self.models.scheduler, **parts)
        return in_turn(self.models.turns.take("stories", request), told)

    def stop(self, request: gr.Request) -> None:
        """Ends the story of this page."""
        self.models.turns.stop(kind="stories", session=request.session_hash)

    def stop_comparing(self, request: gr.Request) -> None:
        """Ends the comparison of this page."""
        self.models.turns.stop(kind="comparisons", session=request.session_hash)

    def compare(self, request: gr.Request, prompt: object, *settings: object) -> Iterator[list[Telling]]:
        """Tells the stories of all models at the same time, from one prompt and one seed."""
        sampling = check_sampling(*settings)
        storytellers = [self.models.storytellers[name] for name in self.models.side_by_side()]
        told = at_low_priority(stream_together(storytellers, check_text("prompt", prompt), sampling))
        return in_turn(self.models.turns.take("comparisons", request), told)

    def colours(self, request: gr.Request, model: object, text: object) -> dict[str, Any]:
        """The answer of `score`, with the bits of all characters in one string.

        Gradio copies a list number by number at each event: with thousands of numbers a click took 0.2 seconds.
        """
        scored = self.endpoints.score(model, text, request)
        dropped = [visible(each) for each in scored["dropped"]]
        spoken = language(self.models.storyteller(model))
        return scored | {"bits": json.dumps(scored["bits"]), "dropped": dropped, "language": spoken}

    def look(
        self, request: gr.Request, model: object, text: object, index: object, *settings: object
    ) -> dict[str, Any]:
        """The likeliest characters at `index` of a scored text, and the character that the text has there, if any."""
        storyteller, sampling = self.models.storyteller(model), check_sampling(1, *settings, 0)
        text = check_text("text", text)
        index = check_whole("index", index, 0, len(text))
        # Not fitted again: that could compose a letter and an accent between which something was dropped.
        parts = text[:index], text[index:]
        before, after = ("".join(c for c in part if c in storyteller.vocab.stoi) for part in parts)
        with self.models.turns.now("looks", request):
            logits = self.models.read(storyteller.name, before + after)[len(before)]
        rows = expected(storyteller, logits, sampling)
        here = text[index] if index < len(text) else None
        shown = [row for i, row in enumerate(rows) if i < LIKELIEST or row["character"] == here]
        return {"before": text[max(0, index - 20) : index], "here": here, "rows": shown}

    def attention(
        self, request: gr.Request, model: object, text: object, index: object, layer: object, head: object
    ) -> dict[str, Any]:
        """How much a head attends to each character before `index` of a text. Layers and heads count from 1."""
        storyteller = self.models.storyteller(model)
        if not HAS_TORCH:
            raise Refusal("attention needs PyTorch: .venv/bin/python -m pip install -r requirements.txt", "layer")
        text = check_text("text", text)
        index = check_whole("index", index, 0, len(text))
        config = storyteller.config
        layer = check_whole("layer", layer, 1, config.layers * config.loops)
        head = check_whole("head", head, 1, config.heads)
        read = storyteller.prepare(text[:index])
        with self.models.turns.now("looks", request):
            weights = TorchDecoder(storyteller.network).attention(read.ids, layer - 1, head - 1)[-1]
        opened = len(read.ids) > len(read.text)  # the context still holds the mark that opens a story
        return {
            "text": read.text[read.cut :],
            "language": language(storyteller),
            "weights": [round(float(weight), 4) for weight in weights[opened:]],
            "opening": float(weights[0]) if opened else 0.0,
            "outside": read.cut,
            "layer": layer,
            "head": head,
        }
