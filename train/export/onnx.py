"""Writes model.onnx, the network as one graph for ONNX Runtime, after comparing it with PyTorch.

The graph is built node by node around GroupQueryAttention. This operator rotates q and k by their positions and keeps
past and present cache in one buffer. 8-bit weights are stored in blocks with one scale each (MatMulNBits): its kernels
do not saturate on processors without VNNI; those of DynamicQuantizeMatMul do.

Shapes: B batch, T time, S all positions in the cache, C width, H heads, D head width, M hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.artifacts import ArtifactError, add_graph
from model.config import ModelConfig
from model.decoder import Decoder, OnnxDecoder, OnnxGraph, TorchDecoder
from model.gpt import NORM_EPS
from model.sampling import Sampling
from model.storyteller import Storyteller, windows
from model.teller import log_softmax

OPSET = 21
IR_VERSION = 10  # the one of this opset; by default onnx writes its newest, which older runtimes refuse
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
EPSILON = {"gpt": NORM_EPS, "classic": 1e-5}
BLOCK = 64  # weights that share a scale: 32 is slower, 128 is not faster and pads widths of 64
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
    """Returns ten stories that the model tells, each with its start symbol."""
    stories = []
    for seed in range(10):
        decoder.reset()
        teller, story = storyteller.teller("", Sampling(length=1000, temperature=1, seed=seed)), ""
        while not teller.over:
            story += teller.step(decoder)
        stories.append([storyteller.vocab.start, *storyteller.vocab.encode(story or " ")])
    return stories


def build(config: ModelConfig, weights: Mapping[str, np.ndarray], *, bits: int) -> bytes:
    """Returns the graph that `OnnxGraph` opens, as bytes, with weights of 8 or 32 bits."""
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    graph = (ClassicGraph if config.architecture == "classic" else GptGraph)(config, weights, bits)
    graph.logits()
    inputs = [
        ("ids", TensorProto.INT64, ["B", "T"]),
        ("last", TensorProto.INT32, ["B"]),
        ("total", TensorProto.INT32, []),
        ("positions", TensorProto.INT64, ["B", "T"]),
        ("bias", TensorProto.FLOAT, [1, 1, "T", "S"]),
        *((name, TensorProto.FLOAT, ["S", config.head_width // 2]) for name in graph.rotary),
    ]
    outputs = [("logits", TensorProto.FLOAT, ["B", "T", config.vocab_size])]
    for layer in range(config.layers * config.loops):
        for kind in ("key", "value"):
            shape = ["B", config.heads, "S", config.head_width]
            inputs.append((f"past_{kind}_{layer}", TensorProto.FLOAT, shape))
            outputs.append((f"present_{kind}_{layer}", TensorProto.FLOAT, shape))
    ends = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs, outputs)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "storyteller", *ends, list(graph.constants.values())),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=IR_VERSION,
    )
    return model.SerializeToString()


class GraphBuilder:
    """Collects the nodes and constants of a graph. Its methods take and return names of tensors."""

    rotary: tuple[str, ...] = ()  # the inputs for the rotation of keys and queries by their positions

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray], bits: int) -> None:
        self.config, self.weights, self.bits = config, weights, bits
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        """Adds a constant, once for each name: blocks that are applied several times ask for theirs again."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def node(self, operator: str, *inputs: str, to: str | None = None, domain: str = "", **attributes: object) -> str:
        """Adds a node with one output.

        SimplifiedLayerNormalization is an operator of ONNX Runtime too, although it is in the domain of ONNX:
        onnx.checker does not know it.
        """
        return self.node_with_outputs(operator, inputs, [to or self.new_name()], domain, **attributes)[0]

    def node_with_outputs(
        self, operator: str, inputs: Sequence[str], outputs: list[str], domain: str = "", **attributes: object
    ) -> list[str]:
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        return outputs

    def new_name(self) -> str:
        """Returns a name that no tensor has."""
        return f"x{len(self.nodes)}"

    def linear(
        self, x: str, name: str, rows: slice | None = None, bias: str | None = None, to: str | None = None
    ) -> str:
        """Multiplies x (B, T, K) by the transpose of a weight (N, K), or of some of its rows, and adds a bias (N,)."""
        w = self.weights[name] if rows is None else self.weights[name][rows]
        if rows is not None:
            name += f".{rows.start}"
        N, K = w.shape
        if self.bits == 8:
            levels, scales = quantise(w)
            inputs = [x, self.constant(f"{name}.levels", levels), self.constant(f"{name}.scales", scales)]
            inputs += ["", "", self.weight(bias)] if bias else []
            # Level 4 uses 8-bit activations too; the other levels unpack all weights for each character.
            blocks = dict(K=K, N=N, bits=8, block_size=BLOCK, accuracy_level=4)
            return self.node("MatMulNBits", *inputs, to=to, domain=MICROSOFT, **blocks)
        if bias is None:
            return self.node("MatMul", x, self.constant(f"{name}.T", w.T), to=to)
        product = self.node("MatMul", x, self.constant(f"{name}.T", w.T))
        return self.node("Add", product, self.weight(bias), to=to)

    def attend(self, qkv: Sequence[str], layer: int, **attributes: object) -> str:
        """Adds causal attention (B, T, C) over the cache of that layer, which it also writes."""
        H = self.config.heads
        past, present = ([f"{when}_{kind}_{layer}" for kind in ("key", "value")] for when in ("past", "present"))
        rotary = [*self.rotary, "positions"] if self.rotary else [""] * 3
        inputs = [*qkv, *past, "last", "total", *rotary, "bias"]
        heads = dict(num_heads=H, kv_num_heads=H)
        return self.node_with_outputs(
            "GroupQueryAttention", inputs, [self.new_name(), *present], MICROSOFT, **heads, **attributes
        )[0]

    def residual(self, x: str, change: str | None, name: str, bias: str | None = None) -> tuple[str, str]:
        """Adds x + change + bias, or x alone without a change.

        Returns it normalised by the norm `name`, and as it is.
        """
        simple, classic = ("Simplified", False) if self.config.architecture == "gpt" else ("", True)
        gains = [self.weight(f"{name}.weight")] + ([self.weight(f"{name}.bias")] if classic else [])
        epsilon = EPSILON[self.config.architecture]
        if change is None:
            return self.node(f"{simple}LayerNormalization", x, *gains, epsilon=epsilon, axis=-1), x
        inputs = [x, change, *gains, *([self.weight(bias)] if bias else [])]
        outputs = [self.new_name(), "", "", f"{self.new_name()}.sum"]
        found = self.node_with_outputs(f"Skip{simple}LayerNormalization", inputs, outputs, MICROSOFT, epsilon=epsilon)
        return found[0], found[3]


class GptGraph(GraphBuilder):
    rotary = "cos", "sin"

    def logits(self) -> None:
        x, change = self.node("Gather", self.weight("embedding.weight"), "ids"), None
        # The shape (B, T, all) that joins the heads again, after each was normalised on its own.
        shape = self.node("Concat", self.node("Shape", "ids"), self.constant("all", np.array([-1])), axis=0)
        for layer in range(self.config.layers * self.config.loops):
            block = f"blocks.{layer % self.config.layers}"
            y, x = self.residual(x, change, f"{block}.attention_norm")
            change = self.attention(y, f"{block}.attention", layer, shape)
            y, x = self.residual(x, change, f"{block}.mlp_norm")
            change = self.mlp(y, f"{block}.mlp")
        y, _ = self.residual(x, change, "norm")
        self.linear(y, "embedding.weight", to="logits")

    def attention(self, y: str, name: str, layer: int, shape: str) -> str:
        C, H, D = self.config.width, self.config.heads, self.config.head_width
        qkv = self.linear(y, f"{name}.qkv.weight")  # (B, T, 3 C)
        parts = [self.new_name(), f"{self.new_name()}.v"]
        qk, v = self.node_with_outputs("Split", [qkv, self.constant("qk_v", np.array([2 * C, C]))], parts, axis=-1)
        # One norm for all heads of q and k: each head has its own row of gains.
        gains = [self.weights[f"{name}.{kind}_norm.weight"] for kind in "qk"]
        gains = self.constant(f"{name}.gains", np.repeat(gains, H, axis=0)[None])  # (1, 2 H, D)
        heads = self.node("Reshape", qk, self.constant("heads", np.array([-1, 2 * H, D])))  # (B T, 2 H, D)
        heads = self.node("SimplifiedLayerNormalization", heads, gains, epsilon=EPSILON["gpt"], axis=2)
        packed = self.node("Concat", self.node("Reshape", heads, shape), v, axis=-1)
        return self.linear(self.attend([packed, "", ""], layer, do_rotary=1), f"{name}.out.weight")

    def mlp(self, y: str, name: str) -> str:
        M = self.config.hidden_width
        gate, up = (self.linear(y, f"{name}.gate_up.weight", slice(a, a + M)) for a in (0, M))
        gate = self.node("QuickGelu", gate, domain=MICROSOFT, alpha=1.0)  # x sigmoid(x)
        return self.linear(self.node("Mul", gate, up), f"{name}.down.weight")


class ClassicGraph(GraphBuilder):
    def logits(self) -> None:
        x = self.node("Gather", self.weight("embedding.weight"), "ids")
        x = self.node("Add", x, self.node("Gather", self.weight("positions.weight"), "positions"))
        change = bias = None
        for layer in range(self.config.layers):
            block = f"blocks.{layer}"
            y, x = self.residual(x, change, f"{block}.attention_norm", bias)
            packed = self.linear(y, f"{block}.attention.qkv.weight")
            y = self.attend([packed, "", ""], layer, scale=self.config.width**-0.5)
            change, bias = self.linear(y, f"{block}.attention.out.weight"), f"{block}.attention.out.bias"
            y, x = self.residual(x, change, f"{block}.mlp_norm", bias)
            y = self.node("Relu", self.linear(y, f"{block}.mlp.up.weight", bias=f"{block}.mlp.up.bias"))
            change, bias = self.linear(y, f"{block}.mlp.down.weight"), f"{block}.mlp.down.bias"
        y, _ = self.residual(x, change, "norm", bias)
        self.linear(y, "head.weight", bias="head.bias", to="logits")


def quantise(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantises a weight (N, K), padded with zero columns.

    Returns uint8 levels around 128 (N, blocks, BLOCK) and scales (N, blocks).
    """
    N, K = w.shape
    blocks = -(-K // BLOCK)
    padded = np.zeros((N, blocks * BLOCK), np.float32)
    padded[:, :K] = w
    padded = padded.reshape(N, blocks, BLOCK)
    scales = np.abs(padded).max(axis=-1) / 127
    scales[scales == 0] = 1
    return (np.rint(padded / scales[..., None]) + 128).astype(np.uint8), scales
