"""Writes model.onnx, the network as one graph for ONNX Runtime, after holding it against PyTorch.

It is built node by node around GroupQueryAttention, which turns q and k by their positions and keeps the cache in one
buffer, past and present. Weights of 8 bits stand in blocks with a scale each (MatMulNBits): its kernels do not saturate
on processors without VNNI, those of DynamicQuantizeMatMul do.

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
IR_VERSION = 10  # of that opset; onnx would write its newest, which older runtimes refuse
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
EPSILON = {"gpt": NORM_EPS, "classic": 1e-5}
BLOCK = 64  # weights that share a scale: 32 is slower, 128 no faster, and pads widths of 64
# Up to here float32 weights stay in a core's own cache: 8 bits gain little or nothing, and would tell other stories.
FLOAT_BYTES = 2**20
# How far apart logits may be at 32 bits, in standard deviations: a hundred times what the shipped models show (1e-5)
# on the processor that this was measured on, for others add in another order.
CLOSE = 1e-3
TOLERANCE = 0.005  # how much more nats per character 8 bits may cost


def write(storyteller: Storyteller, *, bits: int | None = None, sequences: Sequence[Sequence[int]] = ()) -> str:
    """Puts model.onnx into the storyteller's folder; returns a line about it.

    `bits` of the weights are 8 or 32; None takes 8 unless the network is so small that it gains nothing. 8 bits are
    measured on `sequences` of held-out symbols, each with what opens it; on stories of the model's own without them.
    Raises ArtifactError, and writes nothing, if the graph does not do what PyTorch does.
    """
    config, weights = storyteller.config, storyteller.weights
    if bits is None:
        bits = 32 if 4 * sum(array.size for array in weights.values()) <= FLOAT_BYTES else 8
    exact = build(config, weights, bits=32)
    exact_decoder = OnnxDecoder(OnnxGraph(exact, config, storyteller.folder))
    torch_decoder = TorchDecoder(storyteller.network)
    apart = check_close(storyteller, torch_decoder, exact_decoder, sequences)
    graph, found = exact, f"at 32 bits within {apart:.0e} of PyTorch's logits"
    if bits == 8:
        graph = build(config, weights, bits=8)
        measured_on = f"{len(sequences)} stories" if sequences else "stories of its own; --data FILE takes others"
        sequences = sequences or _own_stories(storyteller, exact_decoder)
        rounded_decoder = OnnxDecoder(OnnxGraph(graph, config, storyteller.folder))
        before, after = (nats_per_character(decoder, sequences) for decoder in (torch_decoder, rounded_decoder))
        cost = after / before - 1
        if not cost <= TOLERANCE:
            raise ArtifactError(
                f"{storyteller.folder}: 8 bits cost {cost:.2%} more nats per character ({before:.4f} to {after:.4f}), "
                f"of {TOLERANCE:.1%} allowed; write it with: "
                f"python -m train.export {storyteller.folder} --to onnx --bits 32"
            )
        found += f", {cost:+.2%} nats per character on {measured_on}"
    add_graph(storyteller.folder, graph, storyteller.hashes["model.safetensors"])
    return f"{storyteller.folder}/model.onnx: {bits} bits, {len(graph):,} bytes, {found}"


def nats_per_character(decoder: Decoder, sequences: Sequence[Sequence[int]]) -> float:
    """The figure of train.evaluate, through a decoder."""
    nats, symbols = 0.0, 0
    for ids in sequences:
        for start, stop, first in windows(len(ids) - 1, decoder.context):
            said = log_softmax(decoder.logits(ids[start:stop])[first - start :])  # (T, V)
            nats -= float(said[np.arange(len(said)), ids[first + 1 : stop + 1]].sum())
            symbols += stop - first
    return nats / symbols


def check_close(
    storyteller: Storyteller, one: TorchDecoder, other: OnnxDecoder, sequences: Sequence[Sequence[int]]
) -> float:
    """The largest difference between two fresh decoders' logits; raises ArtifactError if it is more than CLOSE allows.

    Both read the same symbols, as many as the context takes: `sequences`, and where they end what PyTorch finds
    likeliest. The other one reads them in chunks and one by one.
    """
    ids = list(chain.from_iterable(sequences))[: one.context] or [storyteller.vocab.start]
    following = one.feed(ids)
    while len(ids) < one.context:
        ids.append(int(following.argmax()))
        following = one.feed(ids[-1:])
    expected = one.logits(ids)  # (T, V)
    found = np.stack([other.logits(ids), [other.feed([id]) for id in ids]])  # (2, T, V)
    apart = np.abs(found - expected).max(axis=(0, 2))
    allowed, at = CLOSE * expected.std(), int(apart.argmax())  # where there is NaN, argmax finds that
    if not apart[at] <= allowed:
        raise ArtifactError(
            f"{storyteller.folder}: the graph's logits are up to {apart[at]:.2g} from PyTorch's (after symbol {at + 1} "
            f"of {len(ids)}), of {allowed:.2g} allowed"
        )
    return float(apart[at])


def _own_stories(storyteller: Storyteller, decoder: OnnxDecoder) -> list[list[int]]:
    """Ten stories as the model tells them, with what opens them."""
    stories = []
    for seed in range(10):
        decoder.reset()
        teller, story = storyteller.teller("", Sampling(length=1000, temperature=1, seed=seed)), ""
        while not teller.over:
            story += teller.step(decoder)
        stories.append([storyteller.vocab.start, *storyteller.vocab.encode(story or " ")])
    return stories


def build(config: ModelConfig, weights: Mapping[str, np.ndarray], *, bits: int) -> bytes:
    """The graph that `OnnxGraph` opens, with weights of 8 or 32 bits."""
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
    """Nodes and constants of a graph that grows; what its methods take and return are names of tensors."""

    rotary: tuple[str, ...] = ()  # the inputs that turn keys and queries by their positions

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray], bits: int) -> None:
        self.config, self.weights, self.bits = config, weights, bits
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        """One of that name is stored once, however often it is asked for, as by blocks that are applied again."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def node(self, operator: str, *inputs: str, to: str | None = None, domain: str = "", **attributes: object) -> str:
        """A node with one output.

        SimplifiedLayerNormalization, too, is ONNX Runtime's own, though it stands in ONNX's domain: onnx.checker does
        not know it.
        """
        return self.nodes_out(operator, inputs, [to or self.fresh()], domain, **attributes)[0]

    def nodes_out(
        self, operator: str, inputs: Sequence[str], outputs: list[str], domain: str = "", **attributes: object
    ) -> list[str]:
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        return outputs

    def fresh(self) -> str:
        """A name that no tensor has."""
        return f"x{len(self.nodes)}"

    def linear(
        self, x: str, name: str, rows: slice | None = None, bias: str | None = None, to: str | None = None
    ) -> str:
        """x (B, T, K) times the transpose of a weight (N, K), or of some of its rows, plus a bias (N,)."""
        w = self.weights[name] if rows is None else self.weights[name][rows]
        if rows is not None:
            name += f".{rows.start}"
        N, K = w.shape
        if self.bits == 8:
            levels, scales = quantise(w)
            inputs = [x, self.constant(f"{name}.levels", levels), self.constant(f"{name}.scales", scales)]
            inputs += ["", "", self.weight(bias)] if bias else []
            # Level 4: activations of 8 bits as well; the others unpack all weights for each character.
            blocks = dict(K=K, N=N, bits=8, block_size=BLOCK, accuracy_level=4)
            return self.node("MatMulNBits", *inputs, to=to, domain=MICROSOFT, **blocks)
        if bias is None:
            return self.node("MatMul", x, self.constant(f"{name}.T", w.T), to=to)
        product = self.node("MatMul", x, self.constant(f"{name}.T", w.T))
        return self.node("Add", product, self.weight(bias), to=to)

    def attend(self, qkv: Sequence[str], layer: int, **attributes: object) -> str:
        """Causal attention over the cache of that layer, which it writes: (B, T, C)."""
        H = self.config.heads
        past, present = ([f"{when}_{kind}_{layer}" for kind in ("key", "value")] for when in ("past", "present"))
        rotary = [*self.rotary, "positions"] if self.rotary else [""] * 3
        inputs = [*qkv, *past, "last", "total", *rotary, "bias"]
        heads = dict(num_heads=H, kv_num_heads=H)
        return self.nodes_out(
            "GroupQueryAttention", inputs, [self.fresh(), *present], MICROSOFT, **heads, **attributes
        )[0]

    def residual(self, x: str, change: str | None, name: str, bias: str | None = None) -> tuple[str, str]:
        """x plus change plus bias: normalised by the norm of that name, and as it is; without a change x itself."""
        simple, classic = ("Simplified", False) if self.config.architecture == "gpt" else ("", True)
        gains = [self.weight(f"{name}.weight")] + ([self.weight(f"{name}.bias")] if classic else [])
        epsilon = EPSILON[self.config.architecture]
        if change is None:
            return self.node(f"{simple}LayerNormalization", x, *gains, epsilon=epsilon, axis=-1), x
        inputs = [x, change, *gains, *([self.weight(bias)] if bias else [])]
        outputs = [self.fresh(), "", "", f"{self.fresh()}.sum"]
        found = self.nodes_out(f"Skip{simple}LayerNormalization", inputs, outputs, MICROSOFT, epsilon=epsilon)
        return found[0], found[3]


class GptGraph(GraphBuilder):
    rotary = "cos", "sin"

    def logits(self) -> None:
        x, change = self.node("Gather", self.weight("embedding.weight"), "ids"), None
        # What brings the heads, normalised one by one, back together: (B, T, all).
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
        parts = [self.fresh(), f"{self.fresh()}.v"]
        qk, v = self.nodes_out("Split", [qkv, self.constant("qk_v", np.array([2 * C, C]))], parts, axis=-1)
        # One norm for the heads of q and k: each has its row of gains.
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
    """A weight (N, K) as uint8 around 128 (N, blocks, BLOCK), zeros behind the last column, and scales (N, blocks)."""
    N, K = w.shape
    blocks = -(-K // BLOCK)
    padded = np.zeros((N, blocks * BLOCK), np.float32)
    padded[:, :K] = w
    padded = padded.reshape(N, blocks, BLOCK)
    scales = np.abs(padded).max(axis=-1) / 127
    scales[scales == 0] = 1
    return (np.rint(padded / scales[..., None]) + 128).astype(np.uint8), scales
