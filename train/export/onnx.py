"""Writes model.onnx, after comparing it with PyTorch.

Shapes: T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from model.artifacts import ArtifactError, add_graph
from model.decoder import Decoder, OnnxDecoder, TorchDecoder
from model.graph import OnnxGraph
from model.sampling import Sampling
from model.storyteller import Storyteller, windows
from model.teller import log_softmax
from train.export.onnx_graph import build

# Float32 weights up to this size stay in a core's own cache: 8 bits gain little or nothing, and change the stories.
FLOAT_BYTES = 2**20
# The largest allowed difference of 32-bit logits from PyTorch's, in standard deviations: a hundred times that of the
# shipped models (1e-5) on the processor where it was measured, because other processors add in another order.
LOGIT_TOLERANCE = 1e-3
NATS_TOLERANCE = 0.005  # relative increase in nats per character that 8 bits may cost


def write(storyteller: Storyteller, *, bits: int | None = None, sequences: Sequence[Sequence[int]] = ()) -> str:
    """Writes model.onnx into the storyteller's folder. Returns a line about it.

    The weights have 8 or 32 `bits`; None takes 8, unless the network is so small that it gains nothing. The loss of 8
    bits is measured on `sequences` of held-out symbols, each with its start symbol, or on stories that the model tells
    if there are none. Raises ArtifactError, and writes nothing, if the graph's results differ too much from PyTorch's.
    """
    config, weights = storyteller.config, storyteller.weights
    if bits is None:
        bits = 32 if 4 * sum(array.size for array in weights.values()) <= FLOAT_BYTES else 8
    exact = build(config, weights, bits=32)
    exact_decoder = OnnxDecoder(OnnxGraph(exact, config, storyteller.folder))
    torch_decoder = TorchDecoder(storyteller.network)
    difference = check_close(storyteller, torch_decoder, exact_decoder, sequences)
    graph, found = exact, f"at 32 bits within {difference:.0e} of PyTorch's logits"
    if bits == 8:
        graph = build(config, weights, bits=8)
        measured_on = f"{len(sequences)} stories" if sequences else "stories it told itself; --data FILE takes others"
        sequences = sequences or _own_stories(storyteller, exact_decoder)
        rounded_decoder = OnnxDecoder(OnnxGraph(graph, config, storyteller.folder))
        before, after = (nats_per_character(decoder, sequences) for decoder in (torch_decoder, rounded_decoder))
        cost = after / before - 1
        if not cost <= NATS_TOLERANCE:
            raise ArtifactError(
                f"{storyteller.folder}: 8 bits cost {cost:.2%} more nats per character ({before:.4f} to {after:.4f}); "
                f"at most {NATS_TOLERANCE:.1%} is allowed; write it with: "
                f".venv/bin/python -m train.export {storyteller.folder} --to onnx --bits 32"
            )
        found += f", {cost:+.2%} nats per character on {measured_on}"
    add_graph(storyteller.folder, graph, storyteller.hashes["model.safetensors"])
    return f"{storyteller.folder}/model.onnx: {bits} bits, {len(graph):,} bytes, {found}"


def nats_per_character(decoder: Decoder, sequences: Sequence[Sequence[int]]) -> float:
    """Returns the nats per character, as train.evaluate defines them, of a decoder."""
    nats, symbols = 0.0, 0
    for ids in sequences:
        for start, stop, first in windows(len(ids) - 1, decoder.context):
            log_probabilities = log_softmax(decoder.logits(ids[start:stop])[first - start :])  # (T, V)
            nats -= float(log_probabilities[np.arange(len(log_probabilities)), ids[first + 1 : stop + 1]].sum())
            symbols += stop - first
    return nats / symbols


def check_close(
    storyteller: Storyteller, torch_decoder: TorchDecoder, onnx_decoder: OnnxDecoder, sequences: Sequence[Sequence[int]]
) -> float:
    """Returns the largest difference between the logits of two new decoders.

    Both read the same symbols, one full context: `sequences`, continued by the symbols that PyTorch finds likeliest.
    The ONNX decoder reads them in chunks, and again one by one. Raises ArtifactError if the difference is more than
    LOGIT_TOLERANCE allows.
    """
    ids = list(chain.from_iterable(sequences))[: torch_decoder.context] or [storyteller.vocab.start]
    following = torch_decoder.feed(ids)
    while len(ids) < torch_decoder.context:
        ids.append(int(following.argmax()))
        following = torch_decoder.feed(ids[-1:])
    expected = torch_decoder.logits(ids)  # (T, V)
    found = np.stack([onnx_decoder.logits(ids), [onnx_decoder.feed([id]) for id in ids]])  # (2, T, V)
    difference = np.abs(found - expected).max(axis=(0, 2))
    allowed, at = LOGIT_TOLERANCE * expected.std(), int(difference.argmax())  # argmax finds NaN, if there is one
    if not difference[at] <= allowed:
        raise ArtifactError(
            f"{storyteller.folder}: the graph's logits differ from PyTorch's by up to {difference[at]:.2g} (after "
            f"symbol {at + 1} of {len(ids)}); at most {allowed:.2g} is allowed"
        )
    return float(difference[at])


def _own_stories(storyteller: Storyteller, decoder: OnnxDecoder) -> list[list[int]]:
    """Returns ten stories that the model tells, each with its start symbol. An empty one is the start symbol twice."""
    vocab, stories = storyteller.vocab, []
    for seed in range(10):
        decoder.reset()
        teller, story = storyteller.teller("", Sampling(length=1000, temperature=1, seed=seed)), ""
        while not teller.over:
            story += teller.step(decoder)
        stories.append([vocab.start, *(vocab.encode(story) or [vocab.start])])
    return stories
