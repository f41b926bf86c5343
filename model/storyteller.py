"""A trained model at work: it tells stories, scores text and says what it expects next."""

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
from model.artifacts import CHOOSE_DEFAULT, DEFAULT, Artifact, ArtifactError, read, read_default, spelled
from model.decoder import Decoder, OnnxDecoder, OnnxGraph, TorchDecoder
from model.drafts import Drafts, OnnxDrafts, TorchDrafts
from model.sampling import Sampling, probabilities
from model.teller import DraftTeller, Prompt, Teller, allowed, log_softmax, prepare, told

if TYPE_CHECKING:
    from torch import nn


class Scored(NamedTuple):
    """A character of a text, how much it surprised the model, and what the model held likeliest in its place."""

    character: str
    nats: float
    alternatives: list[tuple[str, float]]  # (character, probability), the likeliest first


class Storyteller:
    """An artifact that can be asked; `name` is that of its folder, or of its repository on the Hub.

    `warning` is None, or why PyTorch tells its stories although it has a model.onnx; that is logged once as well.
    """

    def __init__(self, artifact: Artifact, *, repo_id: str | None = None) -> None:
        self.folder, self.config, self.vocab = artifact.folder, artifact.config, artifact.vocab
        self.metrics, self.log, self.card = artifact.metrics, artifact.log, artifact.card
        self.evaluated_on = evaluated_on(self.metrics)
        self.repo_id = repo_id  # on the Hub, if that is where it comes from
        # of a link, the name that was asked for
        self.name = spelled(Path(repo_id or os.path.abspath(artifact.folder)).name)
        self.weights, self.hashes = artifact.weights, artifact.hashes
        self._onnx, self._opening = artifact.graph, threading.Lock()
        self._graph: OnnxGraph | None = None
        self.warning: str | None = None
        if artifact.graph_trouble:
            self._warn(artifact.graph_trouble)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Storyteller:
        """The storyteller in a folder or, with `name` as user/name, in a model repository of the Hub, checked.

        `options` are the Hub's: revision, token, cache_dir, force_download, local_files_only. Raises ArtifactError.
        """
        if Path(name).is_dir() or not hub.names_repo(name):
            return cls(read(name))
        return cls(read(hub.download(str(name), **options), links=True), repo_id=str(name))

    @cached_property
    def network(self) -> nn.Module:
        """The network in float32 on the CPU, ready to use and without gradients: ids (B, T) -> logits (B, T, V)."""
        import torch

        from model.network import build

        with torch.random.fork_rng(devices=[]):  # the weights that it is built with are replaced
            network = build(self.config)
        weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in self.weights.items()}
        network.load_state_dict(weights)
        return network.eval().requires_grad_(False)

    def decoder(self) -> Decoder:
        """A new decoder; each story needs its own. It runs model.onnx where that can be had, else the network."""
        graph = self.open_graph()
        return TorchDecoder(self.network) if graph is None else OnnxDecoder(graph)

    def open_graph(self) -> OnnxGraph | None:
        """The graph that all decoders share, opened on first use; None where PyTorch tells."""
        with self._opening:
            if self._onnx is not None:
                data, self._onnx = self._onnx, None  # what is open needs its bytes no more
                try:
                    self._graph = OnnxGraph(data, self.config, self.folder)
                except ArtifactError as error:
                    self._warn(str(error))
            return self._graph

    def _warn(self, trouble: str) -> None:
        has_torch = find_spec("torch") is not None
        until = "PyTorch tells its stories, more slowly" if has_torch else "it tells none, as PyTorch is not installed"
        self.warning = f"{spelled(trouble)}; until then {until}"
        logging.getLogger(__name__).warning(self.warning)

    def prepare(self, prompt: str) -> Prompt:
        """The prompt as the model will read it, and what of it is lost."""
        return prepare(prompt, self.vocab, self.config.context)

    def tell(self, prompt: str, sampling: Sampling | None = None) -> Iterator[str]:
        """What follows `prompt`, as it is found: characters, with several drafts whole sentences.

        At most `sampling.length` characters come, fewer where the model ends its story or no sentence more fits;
        without `stop_at_end` the end mark has probability 0. An empty prompt gives a story from its start, None stands
        for `Sampling()`. Closing the iterator stops at once.
        """
        teller = self.teller(prompt, sampling or Sampling())
        for piece in told(teller, self.decoder_of(teller)):
            if piece:
                yield piece

    def teller(self, prompt: str, sampling: Sampling) -> Teller | DraftTeller:
        """The rule by which this story is told: its state is that of the story."""
        # The likeliest drafts are all alike.
        one = sampling.drafts == sampling.beams == 1 or sampling.temperature == 0
        return (Teller if one else DraftTeller)(self.vocab, prompt, sampling, self.config.context)

    def decoder_of(self, teller: Teller | DraftTeller) -> Decoder | Drafts:
        """A new decoder for the steps of that story."""
        if isinstance(teller, Teller):
            return self.decoder()
        if (graph := self.open_graph()) is None:
            return TorchDrafts(self.network)
        return OnnxDrafts(graph, teller.rows, teller.limit, teller.beams)

    def next_characters(self, prompt: str, k: int = 10, sampling: Sampling | None = None) -> list[tuple[str, float]]:
        """The at most k likeliest symbols after `prompt` as (symbol, probability), those that `sampling` leaves.

        None stands for the model's own probabilities: temperature 1 and nothing cut off.
        """
        sampling = sampling or Sampling(temperature=1.0)
        logits = self.decoder().feed(self.prepare(prompt).ids)
        return self._likeliest(self.chances(logits, sampling), k)

    def chances(self, logits: np.ndarray, sampling: Sampling) -> np.ndarray:
        """The probability (V,), float64, with which `tell` draws each symbol from these logits (V,)."""
        return probabilities(allowed(logits, self.vocab, sampling), sampling)

    def score(self, text: str, *, k: int = 10) -> list[Scored]:
        """Each character of `text`, as far as the vocabulary has it, with the nats that it cost and k alternatives.

        The text is read as a story from its start, in windows of the context that advance by half of it.
        """
        ids = [self.vocab.start, *self.vocab.encode(self.vocab.fit(text)[0])]
        rows = (row for logits in self.logits(ids[:-1]) for row in log_softmax(logits))
        return [
            Scored(self.vocab.itos[following], -float(row[following]), self._likeliest(np.exp(row), k))
            for following, row in zip(ids[1:], rows, strict=True)
        ]

    def logits(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """The logits after each of ids, however many, in parts (T, V): of windows that advance by half a context.

        The first id should be `vocab.start`. Two windows are read at a time, on a thread each.
        """
        decoder = self.decoder()

        def new(start: int, stop: int, first: int) -> np.ndarray:
            return decoder.logits(ids[start:stop])[first - start :]

        with ThreadPoolExecutor(2) as readers:
            begun: deque[Future[np.ndarray]] = deque()
            for window in windows(len(ids), self.config.context):
                begun.append(readers.submit(new, *window))
                if len(begun) > 2:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()

    def _likeliest(self, chances: np.ndarray, k: int) -> list[tuple[str, float]]:
        order = np.argsort(-chances, kind="stable")[:k] if k else ()
        return [(self.vocab.itos[id], float(chances[id])) for id in order if chances[id] > 0]


def windows(n: int, context: int) -> Iterator[tuple[int, int, int]]:
    """How n predictions are scored, each once, with at least half a context before it where the text has that.

    Yields (start, stop, first): the symbols start to stop - 1 are read, at most `context` of them, and of the
    predictions that they make of the symbols after them, those of the positions first to stop - 1 count.
    """
    start = first = 0
    while first < n:
        stop = min(start + context, n)
        yield start, stop, first
        start, first = start + max(1, context // 2), stop


def load(name: str | Path) -> Storyteller:
    """The storyteller in a folder, or in the model repository user/name of the Hub, from where it is downloaded.

    Raises ArtifactError, which names the file and the mend.
    """
    return Storyteller.from_pretrained(name)


def find(folder: str | Path = "artifacts") -> tuple[list[Storyteller], dict[str, str]]:
    """The storytellers in the folders inside `folder`, and why each of the others was skipped, by name.

    The one that the file `default` names comes first. The others are grouped by the text that they were evaluated on,
    because losses on different texts cannot be compared: the text that most of them share first, and of each text the
    lowest loss first. Hidden folders are left out, and a missing `folder` holds none.
    """
    found, skipped = [], {}
    for path in sorted(Path(folder).glob("[!.]*/")):
        try:
            found.append(load(path))
        except ArtifactError as error:
            skipped[spelled(path.name)] = spelled(str(error))
    default = None
    try:
        default = read_default(folder)
        if default is not None and default not in [storyteller.name for storyteller in found]:
            raise ArtifactError(f"{Path(folder) / DEFAULT} names {default}, which is no model here; {CHOOSE_DEFAULT}")
    except ArtifactError as error:
        skipped[DEFAULT] = spelled(str(error))
    return ranked(found, default), skipped


def ranked(storytellers: Sequence[Storyteller], default: str | None = None) -> list[Storyteller]:
    """Storytellers in the order of `find`; `default` is the name of the first."""
    shared = Counter(storyteller.evaluated_on for storyteller in storytellers)

    def place(storyteller: Storyteller) -> tuple[bool, int, tuple[str, str], float]:
        text = storyteller.evaluated_on
        return storyteller.name != default, -shared[text], text, storyteller.metrics["nats_per_character"]

    return sorted(storytellers, key=place)


def evaluated_on(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Name and SHA-256 of the text that a model's loss was measured on, "" where metrics.json does not say.

    Models with the same pair can be compared by their losses.
    """
    figures = metrics.get("evaluation")
    figures = figures if isinstance(figures, dict) else {}
    return str(figures.get("data", "")), str(figures.get("sha256", ""))


def untrained(metrics: Mapping[str, Any], vocab_size: int) -> bool:
    """Whether the loss is within 5 % of ln V, which guessing among all V symbols has."""
    return metrics["nats_per_character"] > 0.95 * math.log(vocab_size)
