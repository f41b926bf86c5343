"""Builds the network as one graph for ONNX Runtime, node by node around its operator GroupQueryAttention.

This operator rotates q and k by their positions and keeps past and present cache in one buffer. 8-bit weights are
stored in blocks with one scale each (MatMulNBits): its kernels do not saturate on processors without VNNI; those of
DynamicQuantizeMatMul do.

Shapes: B batch, T time, S all positions in the cache, C width, H heads, D head width, M hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.config import ModelConfig
from model.gpt import NORM_EPS
from model.graph import MASKED

OPSET = 21
IR_VERSION = 10  # the one of this opset; by default onnx writes its newest, which older runtimes refuse
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
EPSILON = {"gpt": NORM_EPS, "classic": 1e-5}
BLOCK = 64  # weights that share a scale: 32 is slower, 128 is not faster and pads widths of 64


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
        helper.make_graph(graph.nodes, "storyteller", *ends, [*graph.constants.values()], value_info=graph.shapes),
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
        self.shapes: list[onnx.ValueInfoProto] = []  # declared where ONNX Runtime would infer a wrong one

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

    def attend(self, qkv: str, layer: int) -> str:
        """Adds causal attention (B, T, C) over the cache of that layer, which it also writes, for qkv (B, T, 3 C).

        The queries must be scaled already. At one symbol ONNX Runtime takes a slow kernel, unless the scale is exactly
        1 and the heads have a sink: one more score, without a value. Here its weight exp(MASKED) is 0.
        """
        H, C = self.config.heads, self.config.width
        past, present = ([f"{when}_{kind}_{layer}" for kind in ("key", "value")] for when in ("past", "present"))
        rotary = [*self.rotary, "positions"] if self.rotary else [""] * 3
        sink = self.constant("sink", np.full(H, MASKED, np.float32))
        inputs = [qkv, "", "", *past, "last", "total", *rotary, "bias", sink]
        outputs = [self.new_name(), *present]
        attributes = dict(num_heads=H, kv_num_heads=H, scale=1.0, do_rotary=int(bool(self.rotary)))
        y = self.node_with_outputs("GroupQueryAttention", inputs, outputs, MICROSOFT, **attributes)[0]
        # Versions of ONNX Runtime before 1.31 infer a wrong shape, unless it is declared.
        self.shapes.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, ["B", "T", C]))
        return y

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
        q, k = (self.weights[f"{name}.{kind}_norm.weight"] for kind in "qk")
        gains = self.constant(f"{name}.gains", np.repeat([q * D**-0.5, k], H, axis=0)[None])  # (1, 2 H, D)
        heads = self.node("Reshape", qk, self.constant("heads", np.array([-1, 2 * H, D])))  # (B T, 2 H, D)
        heads = self.node("SimplifiedLayerNormalization", heads, gains, epsilon=EPSILON["gpt"], axis=2)
        packed = self.node("Concat", self.node("Reshape", heads, shape), v, axis=-1)
        return self.linear(self.attend(packed, layer), f"{name}.out.weight")

    def mlp(self, y: str, name: str) -> str:
        M = self.config.hidden_width
        gate, up = (self.linear(y, f"{name}.gate_up.weight", slice(a, a + M)) for a in (0, M))
        gate = self.node("QuickGelu", gate, domain=MICROSOFT, alpha=1.0)  # x sigmoid(x)
        return self.linear(self.node("Mul", gate, up), f"{name}.down.weight")


class ClassicGraph(GraphBuilder):
    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray], bits: int) -> None:
        scale = np.repeat(np.float32([config.width**-0.5, 1, 1]), config.width)[:, None]  # (3 C, 1): scales queries
        scaled = {name: w * scale if name.endswith(".qkv.weight") else w for name, w in weights.items()}
        super().__init__(config, scaled, bits)

    def logits(self) -> None:
        x = self.node("Gather", self.weight("embedding.weight"), "ids")
        x = self.node("Add", x, self.node("Gather", self.weight("positions.weight"), "positions"))
        change = bias = None
        for layer in range(self.config.layers):
            block = f"blocks.{layer}"
            y, x = self.residual(x, change, f"{block}.attention_norm", bias)
            y = self.attend(self.linear(y, f"{block}.attention.qkv.weight"), layer)
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
