"""The storytellers of a folder, and the page's answers: those of its API first, those for its tabs below."""

import json
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from model import Sampling, Storyteller, TorchDecoder, find
from model.sampling import USUAL
from model.storyteller import log_softmax
from page.limits import MAX_STORY, MAX_TEXT, Refusal, check_sampling, check_text, check_whole
from page.scheduler import Company
from page.telling import Telling, figures, named, stream, stream_together
from page.words import ENGLISH

LIKELIEST = 10  # next characters that are shown
READ = 8  # texts that are looked into whose logits are kept, up to 4 MB each: a look at one more character is then free
EXAMPLES = [  # of beginnings, for a model that has none of its own
    "Once upon a time, there was a little robot who",
    "The dragon was afraid of the dark.",
    "Lily found a tiny door behind the big tree.",
    "One rainy day, Tom and his cat",
]
HAS_TORCH = find_spec("torch") is not None
NEEDS_TORCH = "{name} has no model.onnx, which python -m train.export writes, and PyTorch is not installed"


class Shelf:
    """The storytellers of a folder of artifacts, best first, why others were skipped, and why some are slow."""

    def __init__(self, folder: Path) -> None:
        found, skipped = find(folder)
        for storyteller in found:  # all graphs are opened here: the page is laid out next, and says what is wrong
            if storyteller.open_graph() is None and not HAS_TORCH:
                skipped[storyteller.name] = storyteller.warning or NEEDS_TORCH.format(name=storyteller.name)
        found = [storyteller for storyteller in found if storyteller.name not in skipped]
        self.folder, self.company = folder, Company()
        self.read = lru_cache(READ)(self._read)
        self.storytellers = {storyteller.name: storyteller for storyteller in found}
        # Visitors read the reasons, and where the folder lies is no business of theirs.
        self.skipped = {name: reason.replace(f"{folder}{os.sep}", "") for name, reason in skipped.items()}
        warnings = {storyteller.name: storyteller.warning for storyteller in found if storyteller.warning}
        self.warnings = {name: reason.replace(f"{folder}{os.sep}", "") for name, reason in warnings.items()}

    def warm_up(self) -> None:
        """Reads every network and runs it once, so that no visitor waits for that."""
        for storyteller in self.storytellers.values():
            for _ in storyteller.tell("", Sampling(length=1)):
                pass

    @property
    def best(self) -> str:
        return next(iter(self.storytellers), "")

    def storyteller(self, name: object) -> Storyteller:
        name = name or self.best
        if not isinstance(name, str) or name not in self.storytellers:
            raise Refusal(ENGLISH["refused_model"].format(models=", ".join(self.storytellers)), "model")
        return self.storytellers[name]

    def prompts(self, name: object) -> list[str]:
        """Beginnings that suit a model, as many as `EXAMPLES`: its own, as its metrics.json has them, first."""
        own = self.storyteller(name).metrics.get("prompts")
        own = [prompt for prompt in own if isinstance(prompt, str)] if isinstance(own, list) else []
        return [*own, *EXAMPLES][: len(EXAMPLES)]

    # The API: these docstrings and types are its documentation, on the page and for MCP. Gradio reads the types
    # themselves, not their text, of what is streamed the type of one piece, and puts a comma after a line of `Returns`.

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
    ) -> tuple[str, str]:
        """Tells a story that begins with the prompt, in simple English, as for small children.

        Args:
            model: Name of the model that tells, as `models` has it; empty for the best.
            prompt: How the story begins, up to 4,000 characters; empty for a story from the start.
            length: Characters to write, 1 to 4,000; a story may end sooner.
            temperature: 0 always takes the likeliest character, 2 is wild.
            top_k: Only the k likeliest characters may come next; 0 for all.
            top_p: Only the likeliest characters that together reach this probability may come next; 1 for all.
            min_p: Only characters at least this probable, relative to the likeliest, may come next; 0 for all.
            seed: The same seed tells the same story; -1 draws one.

        Returns:
            The story so far with its prompt, and a line of figures: characters, characters per second, seed.
        """
        for telling in self.telling(model, prompt, length, temperature, top_k, top_p, min_p, seed):
            yield telling["prompt"] + telling["text"], figures(telling)

    def score(self, model: str = "", text: str = EXAMPLES[1]) -> dict[str, Any]:
        """Says how well a model foresees a text, character by character.

        Args:
            model: Name of the model that reads, as `models` has it; empty for the best.
            text: The text, 1 to 4,000 characters; it is read as a story from its start.

        Returns:
            model (its name)
            bits_per_character of the text (lower: less surprising)
            average_bits_per_character of the model on stories that it had not seen
            characters (the text as the model reads it)
            bits of surprise of each character
            dropped (the characters that the model does not know).
        """
        storyteller = self.storyteller(model)
        characters, dropped = storyteller.vocab.fit(check_text("text", text))
        if not characters:
            raise Refusal(ENGLISH["refused_letters"], "text")
        check_text("text", characters)  # an ellipsis is three characters to the model
        said = log_softmax(self.read(storyteller.name, characters)[:-1])  # (T, V)
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
        prompt: str = EXAMPLES[1][:-1],
        temperature: float = USUAL.temperature,
        top_k: int = USUAL.top_k,
        top_p: float = USUAL.top_p,
        min_p: float = USUAL.min_p,
        count: int = LIKELIEST,
    ) -> list[dict[str, Any]]:
        """Says which characters a model expects after a text, before and after the settings of the sampler.

        Args:
            model: Name of the model, as `models` has it; empty for the best.
            prompt: The text so far, up to 4,000 characters.
            temperature: 0 always takes the likeliest character, 2 is wild.
            top_k: Only the k likeliest characters may come next; 0 for all.
            top_p: Only the likeliest characters that together reach this probability may come next; 1 for all.
            min_p: Only characters at least this probable, relative to the likeliest, may come next; 0 for all.
            count: How many characters to name, 1 to 256.

        Returns:
            A list of objects, the likeliest first: character (`<|endoftext|>` is the end of the story)
            before (its probability as the model gives it)
            after (the probability with which it is drawn under these settings).
        """
        storyteller = self.storyteller(model)
        sampling = check_sampling(1, temperature, top_k, top_p, min_p, 0)
        count = check_whole("count", count, 1, 256)
        logits = storyteller.decoder().feed(storyteller.prepare(check_text("prompt", prompt)).ids)
        return expected(storyteller, logits, sampling)[:count]

    def models(self) -> list[dict[str, Any]]:
        """Names the models that tell stories here, the best first.

        Returns:
            A list of objects: name, parameters
            nats_per_character on held-out stories (lower is better)
            context (how many characters it looks back)
            command (which trained it).
        """
        return [
            {
                "name": name,
                "parameters": storyteller.metrics["parameters"],
                "nats_per_character": storyteller.metrics["nats_per_character"],
                "context": storyteller.config.context,
                "command": storyteller.metrics.get("command", ""),
            }
            for name, storyteller in self.storytellers.items()
        ]

    # The tabs.

    def telling(self, model: object, prompt: object, *settings: object) -> Iterator[Telling]:
        """The story and what is known about it; the parameters are those of `tell`."""
        storyteller = self.storyteller(model)
        sampling = check_sampling(*settings)
        yield from stream(storyteller, check_text("prompt", prompt), sampling, company=self.company)

    def go_on(self, model: object, story: object, prompt_length: object, *settings: object) -> Iterator[Telling]:
        """Continues the story that is shown, whose first `prompt_length` characters are the visitor's."""
        storyteller = self.storyteller(model)
        sampling = check_sampling(*settings)
        story = check_text("story", story, MAX_STORY, "refused_story_long")
        if not story:
            raise Refusal(ENGLISH["refused_none"], "prompt")
        cut = check_whole("prompt_length", prompt_length, 0, len(story))
        parts = dict(shown=story[:cut], before=story[cut:])
        yield from stream(storyteller, story[-MAX_TEXT:], sampling, company=self.company, **parts)

    def compare(self, prompt: object, *settings: object) -> Iterator[list[Telling]]:
        """The stories of all models from one prompt and one seed, together."""
        sampling = check_sampling(*settings)
        storytellers = [self.storytellers[name] for name in self.side_by_side()]
        yield from stream_together(storytellers, check_text("prompt", prompt), sampling)

    def side_by_side(self) -> list[str]:
        """All models, first those two that show what the recipe is worth: of 2023 and of today, of one size."""
        pair = ["classic", "pocket"] if {"classic", "pocket"} <= self.storytellers.keys() else []
        return pair + [name for name in self.storytellers if name not in pair]

    def colours(self, model: object, text: object) -> dict[str, Any]:
        """What `score` says, the bits of all characters in one string: Gradio copies a list of thousands at each event,
        number by number, which took a click 0.2 seconds."""
        scored = self.score(model, text)
        return scored | {"bits": json.dumps(scored["bits"]), "dropped": named(scored["dropped"])}

    def look(self, model: object, text: object, index: object, *settings: object) -> dict[str, Any]:
        """What could have stood at `index` of a text that was scored, with the character that does, if any."""
        storyteller, sampling = self.storyteller(model), check_sampling(1, *settings, 0)
        text = check_text("text", text)
        index = check_whole("index", index, 0, len(text))
        before, after = (storyteller.vocab.fit(part)[0] for part in (text[:index], text[index:]))
        rows = expected(storyteller, self.read(storyteller.name, before + after)[len(before)], sampling)
        here = text[index] if index < len(text) else None
        shown = [row for i, row in enumerate(rows) if i < LIKELIEST or row["character"] == here]
        return {"before": text[max(0, index - 20) : index], "here": here, "rows": shown}

    def _read(self, name: str, text: str) -> np.ndarray:
        """The logits (T + 1, V) before each of the text's T characters, and after them all; `read` keeps the latest."""
        storyteller = self.storytellers[name]
        ids = [storyteller.vocab.start, *storyteller.vocab.encode(text)]
        return np.concatenate(list(storyteller.logits(ids)))

    def attention(self, model: object, text: object, index: object, layer: object, head: object) -> dict[str, Any]:
        """How much a head looks at each character before `index` of a text; layer and head count from 1."""
        storyteller = self.storyteller(model)
        if not HAS_TORCH:
            raise Refusal("attention needs PyTorch: install it with pip install torch", "layer")
        text = check_text("text", text)
        index = check_whole("index", index, 0, len(text))
        config = storyteller.config
        layer = check_whole("layer", layer, 1, config.layers * config.loops)
        head = check_whole("head", head, 1, config.heads)
        read = storyteller.prepare(text[:index])
        weights = TorchDecoder(storyteller.network).attention(read.ids, layer - 1, head - 1)[-1]
        opened = len(read.ids) > len(read.text)  # the mark that opens a story still fits into the context
        return {
            "text": read.text[read.cut :],
            "weights": [round(float(weight), 4) for weight in weights[opened:]],
            "opening": float(weights[0]) if opened else 0.0,
            "outside": read.cut,
            "layer": layer,
            "head": head,
        }


def expected(storyteller: Storyteller, logits: np.ndarray, sampling: Sampling) -> list[dict[str, Any]]:
    """Every symbol, the likeliest first, with its probability as the model gives it and as `sampling` draws it."""
    before = storyteller.chances(logits, Sampling(temperature=1.0))
    after = storyteller.chances(logits, sampling)
    return [
        {"character": storyteller.vocab.itos[i], "before": float(before[i]), "after": float(after[i])}
        for i in np.argsort(-before, kind="stable")
    ]
