"""A loaded model: it tells stories, scores text and predicts the next character."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from model import hub
from model.artifacts import CHOOSE_DEFAULT, DEFAULT, Artifact, ArtifactError, read, read_default, utf8_safe
from model.decoder import Decoder, OnnxDecoder, TorchDecoder
from model.drafts import Drafts, OnnxDrafts, TorchDrafts
from model.graph import OnnxGraph
from model.sampling import Sampling, probabilities
from model.teller import DraftTeller, Prompt, Teller, log_softmax, mask_end, prepare, story_pieces

if TYPE_CHECKING:
    from torch import nn


class Scored(NamedTuple):
    """A character of a text, its cost in nats, and the likeliest characters at that place."""

    character: str
    nats: float
    alternatives: list[tuple[str, float]]  # (character, probability), the likeliest first


class EvaluationText(NamedTuple):
    """The text that a loss was measured on; "" for what metrics.json does not say."""

    name: str
    sha256: str


class Storyteller:
    """A loaded artifact. `name` is the name of its folder, or of its repository on the Hub.

    `warning` says why model.onnx cannot be used, where there is one, and is None otherwise. It is also logged once.
    """

    def __init__(self, artifact: Artifact, *, repo_id: str | None = None) -> None:
        self.folder, self.config, self.vocab = artifact.folder, artifact.config, artifact.vocab
        self.metrics, self.log, self.card = artifact.metrics, artifact.log, artifact.card
        self.evaluated_on = evaluated_on(self.metrics)
        self.repo_id = repo_id  # its repository on the Hub, if it was loaded from there
        # if the folder is a link, use the link's name
        self.name = utf8_safe(Path(repo_id or os.path.abspath(artifact.folder)).name)
        self.weights, self.hashes = artifact.weights, artifact.hashes
        self._graph_bytes, self._graph_lock = artifact.graph, threading.Lock()
        self._graph: OnnxGraph | None = None
        self.warning: str | None = None
        if artifact.graph_trouble:
            self._warn(artifact.graph_trouble)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Storyteller:
        """Loads and checks the storyteller in a folder, or in a model repository on the Hub if `name` is user/name.

        `options` are passed to the Hub's client: revision, token, cache_dir, force_download, local_files_only. Raises
        ArtifactError.
        """
        if Path(name).is_dir() or not hub.names_repo(name):
            return cls(read(name))
        return cls(read(hub.download(str(name), **options), links=True), repo_id=str(name))

    @cached_property
    def network(self) -> nn.Module:
        """The network in float32 on the CPU, in eval mode and without gradients: ids (B, T) -> logits (B, T, V)."""
        import torch

        from model.network import build

        with torch.random.fork_rng(devices=[]):  # keep the random state: the initial weights are replaced anyway
            network = build(self.config)
        weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in self.weights.items()}
        network.load_state_dict(weights)
        return network.eval().requires_grad_(False)

    def decoder(self) -> Decoder:
        """Returns a new decoder; each story needs its own. It runs model.onnx if that can be used, else the network."""
        graph = self.open_graph()
        return TorchDecoder(self.network) if graph is None else OnnxDecoder(graph)

    def open_graph(self) -> OnnxGraph | None:
        """Returns the graph that all decoders share, or None if there is none. It is opened on first use."""
        with self._graph_lock:
            if self._graph_bytes is not None:
                data, self._graph_bytes = self._graph_bytes, None  # an open graph does not need its bytes any more
                try:
                    self._graph = OnnxGraph(data, self.config, self.folder)
                except ArtifactError as error:
                    self._warn(str(error))
            return self._graph

    def _warn(self, trouble: str) -> None:
        has_torch = find_spec("torch") is not None
        until = "PyTorch tells its stories, more slowly" if has_torch else "it tells none: PyTorch is not installed"
        self.warning = f"{utf8_safe(trouble)}; until then {until}"
        logging.getLogger(__name__).warning(self.warning)

    def prepare(self, prompt: str) -> Prompt:
        """Returns the prompt as the model will read it, and which parts of it are lost."""
        return prepare(prompt, self.vocab, self.config.context)

    def tell(self, prompt: str, sampling: Sampling | None = None) -> Iterator[str]:
        """Yields the story that follows `prompt`, piece by piece: single characters, or sentences with several drafts.

        The pieces have at most `sampling.length` characters together. They have fewer if the model ends its story, or
        if another sentence would not fit. Without `stop_at_end` the end mark has probability 0. An empty prompt gives a
        story from its start. `sampling` None stands for `Sampling()`. Closing the iterator stops at once.
        """
        teller = self.teller(prompt, sampling or Sampling())
        for piece in story_pieces(teller, self.decoder_of(teller)):
            if piece:
                yield piece

    def teller(self, prompt: str, sampling: Sampling) -> Teller | DraftTeller:
        """Returns a new teller for this story. It holds the state of the story."""
        # At temperature 0 all drafts would be equal.
        one = sampling.drafts == sampling.beams == 1 or sampling.temperature == 0
        return (Teller if one else DraftTeller)(self.vocab, prompt, sampling, self.config.context)

    def decoder_of(self, teller: Teller | DraftTeller) -> Decoder | Drafts:
        """Returns a new decoder for the steps of that teller."""
        if isinstance(teller, Teller):
            return self.decoder()
        if (graph := self.open_graph()) is None:
            return TorchDrafts(self.network)
        return OnnxDrafts(graph, teller.rows, teller.limit, teller.beams)

    def next_characters(self, prompt: str, k: int = 10, sampling: Sampling | None = None) -> list[tuple[str, float]]:
        """Returns at most k symbols, the likeliest after `prompt` under `sampling`, as (symbol, probability).

        `sampling` None stands for the model's own probabilities: temperature 1 and no symbol excluded.
        """
        sampling = sampling or Sampling(temperature=1.0)
        logits = self.decoder().feed(self.prepare(prompt).ids)
        return self._likeliest(self.chances(logits, sampling), k)

    def chances(self, logits: np.ndarray, sampling: Sampling) -> np.ndarray:
        """Returns the probability (V,), float64, with which `tell` draws each symbol, from these logits (V,)."""
        return probabilities(mask_end(logits, self.vocab, sampling), sampling)

    def score(self, text: str, *, k: int = 10) -> list[Scored]:
        """Returns each character of `text` that the vocabulary has, with its cost in nats and k alternatives.

        The text is read as a story from its start, in windows of one context that advance by half a context.
        """
        ids = [self.vocab.start, *self.vocab.encode(self.vocab.fit(text)[0])]
        rows = (row for logits in self.logits(ids[:-1]) for row in log_softmax(logits))
        return [
            Scored(self.vocab.itos[following], -float(row[following]), self._likeliest(np.exp(row), k))
            for following, row in zip(ids[1:], rows, strict=True)
        ]

    def logits(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields the logits after each of any number of ids, in parts (T, V).

        They are read in windows that advance by half a context, two at a time, each on its own thread. The first id
        should be `vocab.start`.
        """
        decoder = self.decoder()

        def read_window(start: int, stop: int, first: int) -> np.ndarray:
            return decoder.logits(ids[start:stop])[first - start :]

        with ThreadPoolExecutor(2) as readers:
            begun: deque[Future[np.ndarray]] = deque()
            for window in windows(len(ids), self.config.context):
                begun.append(readers.submit(read_window, *window))
                if len(begun) > 2:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()

    def _likeliest(self, chances: np.ndarray, k: int) -> list[tuple[str, float]]:
        order = np.argsort(-chances, kind="stable")[:k] if k else ()
        return [(self.vocab.itos[id], float(chances[id])) for id in order if chances[id] > 0]


def windows(n: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Yields windows in which n predictions are scored, each of them once.

    Each prediction sees at least half a context before it, where the text has that much. A window is (start, stop,
    first): the symbols start to stop - 1 are read, at most `context` of them. Each of them predicts the symbol after
    it, and the predictions at the positions first to stop - 1 count.
    """
    start = first = 0
    while first < n:
        stop = min(start + context, n)
        yield start, stop, first
        start, first = start + max(1, context // 2), stop


def load(name: str | Path) -> Storyteller:
    """Loads the storyteller in a folder, or downloads it from the model repository user/name on the Hub.

    Raises ArtifactError, which names the file and the fix.
    """
    return Storyteller.from_pretrained(name)


def find(folder: str | Path = "artifacts") -> tuple[list[Storyteller], dict[str, str]]:
    """Returns the storytellers in the folders inside `folder`, and by name why others were skipped.

    The one that the file `default` names comes first. The others are grouped by the text that they were evaluated on,
    because losses on different texts cannot be compared: first the text that most of them share, and for each text the
    lowest loss first. Trials (see `trial_reason`) come last. Hidden folders are ignored; a missing `folder` is empty.
    """
    found, skipped = [], {}
    for path in sorted(Path(folder).glob("[!.]*/")):
        try:
            found.append(load(path))
        except ArtifactError as error:
            skipped[utf8_safe(path.name)] = utf8_safe(str(error))
    default = None
    try:
        default = read_default(folder)
        if default is not None and default not in [storyteller.name for storyteller in found]:
            raise ArtifactError(
                f"{Path(folder) / DEFAULT} names {default!r}, but there is no such model; {CHOOSE_DEFAULT}"
            )
    except ArtifactError as error:
        skipped[DEFAULT] = utf8_safe(str(error))
    return ranked(found, default), skipped


def ranked(storytellers: Sequence[Storyteller], default: str | None = None) -> list[Storyteller]:
    """Sorts storytellers as `find` does. `default` is the name of the one to put first."""
    trials = {storyteller.name for storyteller in storytellers if trial_reason(storyteller)}
    shared = Counter(storyteller.evaluated_on for storyteller in storytellers if storyteller.name not in trials)

    def place(storyteller: Storyteller) -> tuple[bool, bool, int, EvaluationText, float]:
        name, text = storyteller.name, storyteller.evaluated_on
        return name != default, name in trials, -shared[text], text, storyteller.metrics["nats_per_character"]

    return sorted(storytellers, key=place)


def trial_reason(storyteller: Storyteller) -> str:
    """Returns why a model is only a trial, which comes last and is pushed only by name; "" if it is none."""
    if storyteller.metrics.get("preset") == "debug":
        return "a trial of the preset debug"
    if untrained(storyteller.metrics, storyteller.config.vocab_size):
        return f"{storyteller.metrics['nats_per_character']:.4f} nats per character: it has learned almost nothing"
    return ""


def evaluated_on(metrics: Mapping[str, Any]) -> EvaluationText:
    """Returns the text that a model's loss was measured on. Only losses on the same text can be compared."""
    figures = metrics.get("evaluation")
    figures = figures if isinstance(figures, dict) else {}
    return EvaluationText(str(figures.get("data", "")), str(figures.get("sha256", "")))


def untrained(metrics: Mapping[str, Any], vocab_size: int) -> bool:
    """Whether the loss is within 5 % of ln V, which guessing among all V symbols has."""
    return metrics["nats_per_character"] > 0.95 * math.log(vocab_size)
