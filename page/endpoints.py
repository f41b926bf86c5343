"""What programs may call: /tell, /score, /next_characters, /models."""

import math
from inspect import signature
from typing import Any

import gradio as gr
import numpy as np

from model import Sampling, Storyteller
from model.sampling import USUAL
from model.storyteller import log_softmax
from page.limits import Refusal, check_sampling, check_text, check_whole
from page.models import Models
from page.telling import figures, figures_line
from page.words import ENGLISH

LIKELIEST = 10  # next characters to show


class Endpoints:
    """The API. Its docstrings and types are its documentation, on the page and for MCP.

    Gradio reads the types themselves, not their text, so this file does not import annotations from __future__. For a
    stream, Gradio reads the type of one piece. It puts a comma after each line of `Returns`.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def tell(
        self,
        model: str = "",
        prompt: str = "",
        length: int = USUAL.length,
        temperature: float = USUAL.temperature,
        top_k: int = USUAL.top_k,
        top_p: float = USUAL.top_p,
        min_p: float = USUAL.min_p,
        seed: int = -1,
        drafts: int = USUAL.drafts,
        beams: int = USUAL.beams,
        request: gr.Request = None,
    ) -> tuple[str, str, dict[str, Any]]:
        """Tells a story that begins with the prompt, in the language that the model has learned.

        Args:
            model: Name of the model that tells, as `models` lists it; empty for the first of them.
            prompt: How the story begins, up to 4,000 characters; empty for a story from the start.
            length: Characters that the story may have at most, 1 to 4,000. With drafts it ends with a whole sentence.
            temperature: 0 always takes the likeliest character, 2 is very random.
            top_k: Only the k likeliest characters may come next; 0 for all.
            top_p: Only the likeliest characters that together reach this probability may come next; 1 for all.
            min_p: Only characters at least this probable, relative to the likeliest, may come next; 0 for all.
            seed: The same seed tells the same story, 0 to 9,007,199,254,740,991; -1 draws a new seed.
            drafts: How often each sentence is drawn, 1 to 16; the best is kept, and only whole sentences are told.
            beams: How many versions of the story go on side by side until one is best, 1 to 4; each has its drafts.

        Returns:
            The story so far with its prompt
            the figures as text, which the next release leaves out
            the figures: model, seed, characters (how many it wrote), per_second (how many of them in a second), ahead
            (how many stories come first), running, stopped, ended (whether the model ended it), dropped (characters of
            the prompt that the model does not know), kept (how many characters it read, if not all; 0 if it knows none
            of the prompt, and so tells from the start).
        """
        settings = length, temperature, top_k, top_p, min_p, seed, drafts, beams
        for telling in self._models.telling(request, model, prompt, *settings):
            yield telling["prompt"] + telling["text"], figures_line(telling), figures(telling)

    def score(self, model: str = "", text: str | None = None, request: gr.Request = None) -> dict[str, Any]:
        """Says how well a model predicts a text, character by character.

        Args:
            model: Name of the model that reads, as `models` lists it; empty for the first of them.
            text: The text, 1 to 4,000 characters, read as a story from its start. Default: an example of the model's.

        Returns:
            model (its name)
            bits_per_character of the text (lower: less surprising)
            average_bits_per_character of the model on stories that it had not seen
            characters (the text as the model reads it)
            bits of surprise of each character
            dropped (the characters that the model does not know).
        """
        storyteller = self._models.storyteller(model)
        text = self._models.example(model) if text is None else check_text("text", text)
        characters, dropped = storyteller.vocab.fit(text)
        if not characters:
            raise Refusal(ENGLISH["refused_letters"].format(name="text"), "text")
        check_text("text", characters)  # normalising can lengthen a text: an ellipsis becomes three characters
        with self._models.turns.now("looks", request):
            said = log_softmax(self._models.read(storyteller.name, characters)[:-1])  # (T, V)
        bits = -said[np.arange(len(said)), storyteller.vocab.encode(characters)] / math.log(2)
        return {
            "model": storyteller.name,
            "bits_per_character": round(float(bits.mean()), 4),
            "average_bits_per_character": round(storyteller.metrics["nats_per_character"] / math.log(2), 4),
            "characters": characters,
            "bits": bits.round(3).tolist(),
            "dropped": dropped,
        }

    def next_characters(
        self,
        model: str = "",
        prompt: str | None = None,
        temperature: float = USUAL.temperature,
        top_k: int = USUAL.top_k,
        top_p: float = USUAL.top_p,
        min_p: float = USUAL.min_p,
        count: int = LIKELIEST,
        request: gr.Request = None,
    ) -> list[dict[str, Any]]:
        """Says which characters a model expects after a text, before and after the sampling settings are applied.

        Args:
            model: Name of the model, as `models` lists it; empty for the first of them.
            prompt: The text so far, up to 4,000 characters. Default: an example of the model's.
            temperature: 0 always takes the likeliest character, 2 is very random.
            top_k: Only the k likeliest characters may come next; 0 for all.
            top_p: Only the likeliest characters that together reach this probability may come next; 1 for all.
            min_p: Only characters at least this probable, relative to the likeliest, may come next; 0 for all.
            count: How many characters to name, 1 to 256.

        Returns:
            A list of objects, the likeliest first: character (`<|endoftext|>` is the end of the story)
            before (its probability as the model gives it)
            after (the probability with which it is drawn under these settings).
        """
        storyteller = self._models.storyteller(model)
        sampling = check_sampling(1, temperature, top_k, top_p, min_p, 0)
        count = check_whole("count", count, 1, 256)
        prompt = self._models.example(model) if prompt is None else check_text("prompt", prompt)
        with self._models.turns.now("looks", request):
            logits = storyteller.decoder().feed(storyteller.prepare(prompt).ids)
        return expected(storyteller, logits, sampling)[:count]

    def models(self) -> list[dict[str, Any]]:
        """Names the models that tell stories here; the page opens with the first.

        Returns:
            A list of objects: name, parameters
            nats_per_character (the loss on a text that it was not trained on: lower is better)
            evaluation_text (the name of that text; only losses on the same text can be compared)
            context (how many characters it looks back)
            command (which trained it).
        """
        return [
            {
                "name": name,
                "parameters": storyteller.metrics["parameters"],
                "nats_per_character": storyteller.metrics["nats_per_character"],
                "evaluation_text": storyteller.evaluated_on.name,
                "context": storyteller.config.context,
                "command": storyteller.metrics.get("command", ""),
            }
            for name, storyteller in self._models.storytellers.items()
        ]


def expected(storyteller: Storyteller, logits: np.ndarray, sampling: Sampling) -> list[dict[str, Any]]:
    """Every symbol, the likeliest first, with its probability from the model and its probability under `sampling`."""
    before = storyteller.chances(logits, Sampling(temperature=1.0))
    after = storyteller.chances(logits, sampling)
    return [
        {"character": storyteller.vocab.itos[i], "before": float(before[i]), "after": float(after[i])}
        for i in np.argsort(-before, kind="stable")
    ]


# The parameters of each endpoint by name.
PARAMETERS = {
    endpoint.__name__: signature(endpoint).parameters.keys() - {"self", "request"}
    for endpoint in (Endpoints.tell, Endpoints.score, Endpoints.next_characters, Endpoints.models)
}
