"""model.onnx: it is checked when written, tells the same stories as PyTorch, and is not used when it is wrong."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import CLASSIC, GPT, parts, random_weights, small_weights, tell
from stories import write_stories

import model
from model import artifacts, graph
from model.artifacts import ArtifactError
from model.config import ModelConfig
from model.decoder import OnnxDecoder, TorchDecoder
from model.drafts import OnnxDrafts, TorchDrafts
from model.graph import OnnxGraph
from model.network import build
from model.sampling import Sampling
from model.teller import story_pieces
from model.vocab import Vocab
from train.export import formats as export
from train.export import onnx as export_onnx
from train.export import onnx_graph
from train.export.__main__ import main

ROOT = Path(__file__).parent.parent
ENDLESS = {"stop_at_end": False}
TOLD_BY_TORCH = "; until then PyTorch tells its stories, more slowly"


@pytest.fixture
def folder(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A copy of an artifact with a graph. Tests may damage it."""
    return shutil.copytree(tiny_onnx, tmp_path / "tiny")


def story(decoder: model.Decoder, vocab: model.Vocab, prompt: str, sampling: Sampling) -> str:
    return "".join(tell(decoder, vocab, prompt, sampling))


@pytest.mark.parametrize("name", ["tiny_onnx", "tiny_classic_onnx"])
@pytest.mark.parametrize("sampling", [Sampling(length=200, temperature=0, **ENDLESS), Sampling(seed=7, **ENDLESS)])
def test_both_decoders_tell_the_same_story(name: str, sampling: Sampling, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    storyteller = model.load(folder)
    for prompt in ("", "Once upon a time", "long " * 20):
        told = story(OnnxDecoder(folder), storyteller.vocab, prompt, sampling)
        assert told == story(TorchDecoder(storyteller.network), storyteller.vocab, prompt, sampling)
        assert told == "".join(storyteller.tell(prompt, sampling))


SHAPES = [
    GPT,
    CLASSIC,
    ModelConfig(context=48, layers=1, heads=4, width=64, hidden=96),  # a context that is not a power of two
    ModelConfig(context=16, layers=2, heads=1, width=96),  # one head, and a width that is not a multiple of the block
    ModelConfig(vocab_size=3000, context=16, layers=1, heads=1, width=32),
    ModelConfig(architecture="classic", vocab_size=5, context=8, layers=1, heads=4, width=32),
]


@pytest.mark.parametrize("config", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("bits", [32, 8])
def test_graphs_of_every_shape_compute_the_same_as_the_network(config: ModelConfig, bits: int, tmp_path: Path) -> None:
    weights = small_weights(config)
    network = build(config)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    decoder = OnnxDecoder(OnnxGraph(onnx_graph.build(config, weights, bits=bits), config, tmp_path))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, config.context).tolist()
    expected = TorchDecoder(network).logits(ids)
    close = {32: 1e-5, 8: 0.25}[bits] * expected.std()
    np.testing.assert_allclose(decoder.logits(ids), expected, rtol=0, atol=close)
    stepped = np.stack([decoder.feed([id]) for id in ids])
    np.testing.assert_allclose(stepped, expected, rtol=0, atol=close)


def test_thousands_of_characters_without_a_blank_are_exported(tmp_path: Path) -> None:
    config, vocab = replace(GPT, vocab_size=3000), Vocab.of_counts({chr(0x4E00 + n): 1 for n in range(2999)})
    small, folder = small_weights(config), tmp_path / "many"
    silent = {name: array * (not name.endswith(("out.weight", "down.weight"))) for name, array in small.items()}
    silent["embedding.weight"][:] = 0.1  # each character is as likely, and the end mark as likely as all together:
    silent["embedding.weight"][vocab.end] = 0.35  # some of its stories are empty
    artifacts.save(folder, **parts(config) | {"vocab": vocab, "weights": silent})
    assert "8 bits, " in export_onnx.write(model.load(folder), bits=8)
    artifacts.save(folder, **parts(config) | {"vocab": vocab, "weights": small})
    assert "32 bits, " in export_onnx.write(model.load(folder), bits=32)
    storyteller, sampling = model.load(folder), Sampling(length=60, drafts=3, beams=2, seed=1)
    teller = storyteller.teller("从前有", sampling)
    assert isinstance(storyteller.decoder_of(teller), OnnxDrafts)
    told = "".join(story_pieces(teller, TorchDrafts(storyteller.network)))
    assert told == "".join(storyteller.tell("从前有", sampling)) and len(set(told)) > 10


def edited(graph: bytes, change: Callable[[onnx.NodeProto], object]) -> bytes:
    """A graph with a change to each node of attention."""
    proto = onnx.load_from_string(graph)
    for node in proto.graph.node:
        if node.op_type == "GroupQueryAttention":
            change(node)
    return proto.SerializeToString()


def without_sink(node: onnx.NodeProto) -> None:
    node.input[11] = ""


def with_usual_scale(node: onnx.NodeProto) -> None:
    next(each for each in node.attribute if each.name == "scale").f = 32**-0.5


@pytest.mark.alone
@pytest.mark.parametrize("change", [without_sink, with_usual_scale])
def test_the_sink_and_the_scale_of_attention_are_worth_their_lines(change: Callable[[onnx.NodeProto], object]) -> None:
    """If this fails after an update of ONNX Runtime, `attend` does not need the trick any more.

    The times were measured on x86-64 only.
    """
    config = ModelConfig(context=1024, layers=4, heads=4, width=128, hidden=32)
    ours = onnx_graph.build(config, small_weights(config), bits=8)
    decoders = [OnnxDecoder(OnnxGraph(graph, config, Path("none"))) for graph in (ours, edited(ours, change))]
    seconds: list[list[float]] = [[], []]
    for decoder in decoders:
        decoder.feed([1] * 900)
    for _ in range(20):
        for decoder, times in zip(decoders, seconds, strict=True):
            began = time.thread_time()
            for _ in range(5):
                decoder.feed([1])
            times.append(time.thread_time() - began)
    assert min(seconds[0]) < 0.9 * min(seconds[1])  # other work only makes it slower


@pytest.mark.parametrize("config", [GPT, CLASSIC], ids=["gpt", "classic"])
def test_a_sink_changes_nothing_but_the_time(config: ModelConfig) -> None:
    ours = onnx_graph.build(config, small_weights(config), bits=32)
    plain = edited(ours, without_sink)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, config.context).tolist()
    logits = [OnnxDecoder(OnnxGraph(graph, config, Path("none"))).logits(ids) for graph in (ours, plain)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5 * logits[0].std())


def test_the_graph_declares_the_shapes_that_older_versions_of_onnx_runtime_infer_wrongly() -> None:
    proto = onnx.load_from_string(onnx_graph.build(GPT, small_weights(GPT), bits=8)).graph
    shapes = {each.name: each.type.tensor_type.shape.dim for each in proto.value_info}
    attended = [node.output[0] for node in proto.node if node.op_type == "GroupQueryAttention"]
    assert list(shapes) == attended
    assert all([d.dim_param or d.dim_value for d in shape] == ["B", "T", GPT.width] for shape in shapes.values())
    assert len(attended) == GPT.layers * GPT.loops


def test_blocks_that_are_applied_twice_are_stored_once() -> None:
    once = replace(GPT, loops=1)
    sizes = [len(onnx_graph.build(config, random_weights(config), bits=32)) for config in (once, GPT)]
    weights = sum(array.nbytes for array in random_weights(GPT).values())
    assert sizes[1] - sizes[0] < weights / 4


def test_eight_bits_are_a_quarter_of_the_size() -> None:
    config = ModelConfig(context=64, layers=2, heads=4, width=128)
    sizes = {bits: len(onnx_graph.build(config, random_weights(config), bits=bits)) for bits in (32, 8)}
    assert sizes[8] < 0.32 * sizes[32]


def test_quantised_weights_are_half_a_level_off_at_most() -> None:
    w = np.random.default_rng(0).normal(size=(5, 100)).astype(np.float32)
    w[3] = 0
    levels, scales = onnx_graph.quantise(w)
    assert (levels.shape, levels.dtype, scales.shape) == ((5, 2, 64), np.uint8, (5, 2))
    back = ((levels.astype(np.float32) - 128) * scales[..., None]).reshape(5, 128)
    assert (np.abs(back[:, :100] - w) <= np.repeat(scales, 64, axis=1)[:, :100] / 2 + 1e-6).all()
    assert (back[3] == 0).all() and (back[:, 100:] == 0).all()


def test_all_decoders_of_a_storyteller_share_one_session(tiny_onnx: Path) -> None:
    storyteller = model.load(tiny_onnx)
    one, other = storyteller.decoder(), storyteller.decoder()
    assert one._graph is other._graph
    assert not np.shares_memory(one._cache, other._cache)


def test_only_steps_of_one_symbol_have_a_memory_plan(tiny_onnx: Path) -> None:
    """ONNX Runtime keeps a plan for each shape of the inputs: reads of all lengths up to 1,024 would keep 130 MB."""
    opened = model.load(tiny_onnx).open_graph()
    sessions = (opened._session, opened._step_session)
    assert [each.get_session_options().enable_mem_pattern for each in sessions] == [False, True]


def test_ten_thousand_characters_take_no_more_memory(tiny_onnx: Path) -> None:
    code = f"""
import sys
import model
from page.scheduler import Scheduler
from docs.bench import peak_memory
storyteller, scheduler = model.load({str(tiny_onnx)!r}), Scheduler()
def grown(n, prompt):
    sampling = model.Sampling(length=n, seed=1, stop_at_end=False)
    teller = storyteller.teller(prompt, sampling)
    for pieces in (storyteller.tell(prompt, sampling), scheduler.tell(storyteller, teller)):
        for _ in pieces:
            pass
    return peak_memory()
for length in range(40):
    grown(100, "x" * length)
before = grown(1000, "")
print(grown(10_000, "") - before, "torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    megabytes, imports_torch = run.stdout.split()
    assert float(megabytes) < 1
    assert imports_torch == "False"


def test_the_page_runs_without_torch(tiny_onnx: Path, tiny_classic_onnx: Path, tmp_path: Path) -> None:
    for folder in (tiny_onnx, tiny_classic_onnx):
        shutil.copytree(folder, tmp_path / folder.name)
    code = f"""
import sys
from pathlib import Path
import app
models = app.Models(Path({str(tmp_path)!r}))
app.build(models)
models.warm_up()
for name in models.storytellers:
    *_, (story, _, _) = app.Answers(models).endpoints.tell(name, "Once", 50, 0.8, 0, 1, 0, 7)
    print(len(story))
print("torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == "False"
    assert len(run.stdout.split()) == 3


def test_a_missing_graph_is_no_error_of_the_artifact(tiny_artifact: Path) -> None:
    storyteller = model.load(tiny_artifact)
    assert isinstance(storyteller.decoder(), TorchDecoder)
    assert storyteller.warning is None
    with pytest.raises(ArtifactError) as caught:
        OnnxDecoder(tiny_artifact)
    fix = f"write it with: .venv/bin/python -m train.export {tiny_artifact} --to onnx"
    assert str(caught.value) == f"{tiny_artifact / 'model.onnx'} is missing; {fix}"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DIFFERS = "is not the file that config.json was saved with (its SHA-256 differs)"


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        (Path.unlink, "is missing"),
        (cut_short, DIFFERS),
        (flip, DIFFERS),
        (lambda path: path.write_bytes(b""), DIFFERS),
        (lambda path: (path.unlink(), path.mkdir()), "is not a plain file"),
    ],
    ids=["missing", "short", "flipped", "empty", "folder"],
)
def test_without_a_valid_graph_torch_tells_and_one_line_says_why(
    folder: Path, damage, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = "".join(model.load(folder).tell("Once", Sampling(length=40, seed=1)))
    damage(folder / "model.onnx")
    storyteller = model.load(folder)
    for _ in range(2):
        assert "".join(storyteller.tell("Once", Sampling(length=40, seed=1))) == expected
    assert isinstance(storyteller.decoder(), TorchDecoder)
    fix = f"write it with: .venv/bin/python -m train.export {folder} --to onnx"
    line = f"{folder / 'model.onnx'} {trouble}; {fix}{TOLD_BY_TORCH}"
    assert storyteller.warning == line
    assert caplog.record_tuples == [("model.storyteller", logging.WARNING, line)]


def test_a_listed_graph_that_cannot_be_opened_is_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifacts.add_graph(folder, b"\x08\x0a no graph", artifacts.read(folder).hashes["model.safetensors"])
    storyteller = model.load(folder)
    assert storyteller.warning is None
    assert isinstance(storyteller.decoder(), TorchDecoder)
    assert isinstance(storyteller.decoder(), TorchDecoder)
    trouble = f"cannot be opened by ONNX Runtime {onnxruntime.__version__}; write it with: "
    assert storyteller.warning.startswith(f"{folder / 'model.onnx'} {trouble}")
    reason, warning = caplog.messages
    assert reason.startswith(f"{folder / 'model.onnx'}: [ONNXRuntimeError]")
    assert warning == storyteller.warning


@pytest.mark.parametrize("version", ["1.22.1", "1.9.0"])
def test_an_older_onnx_runtime_is_told_what_the_graph_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("its own words")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    storyteller = model.load(folder)
    assert isinstance(storyteller.decoder(), TorchDecoder)
    needed = f"cannot be opened by ONNX Runtime {version}; it needs 1.23 or newer; {graph.INSTALL}"
    assert storyteller.warning == f"{folder / 'model.onnx'} {needed}{TOLD_BY_TORCH}"
    assert caplog.messages == [storyteller.warning]


def test_a_graph_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """Either the model was trained again while its graph was made, or somebody copied the graph there."""
    other, weights = tmp_path / "other", artifacts.read(folder).hashes["model.safetensors"]
    artifacts.save(other, **parts() | {"weights": random_weights(GPT, seed=1)})
    fix = f"write it with: .venv/bin/python -m train.export {other} --to onnx"
    with pytest.raises(ArtifactError) as caught:
        artifacts.add_graph(other, (folder / "model.onnx").read_bytes(), weights)
    trouble = "was made of other weights than model.safetensors holds"
    assert str(caught.value) == f"{other / 'model.onnx'} {trouble}; {fix}"
    shutil.copy(folder / "model.onnx", other)
    assert model.load(other).warning == f"{other / 'model.onnx'} {DIFFERS}; {fix}{TOLD_BY_TORCH}"


def test_training_again_leaves_no_graph_of_the_old_weights(folder: Path) -> None:
    artifacts.save(folder, **parts(steps=5))
    assert not (folder / "model.onnx").exists()
    assert model.load(folder).warning is None


def test_without_onnxruntime_torch_tells(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    storyteller = model.load(tiny_onnx)
    assert isinstance(storyteller.decoder(), TorchDecoder)
    assert "needs ONNX Runtime, which cannot be imported" in storyteller.warning
    assert "install it with: .venv/bin/python -m pip install -r requirements-page.txt" in storyteller.warning


# The command.


def run(*argv: object) -> int:
    return main([str(each) for each in argv])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The folder of a gpt whose results hardly change with 8 bits."""
    folder = tmp_path / "small"
    artifacts.save(folder, **parts() | {"weights": small_weights(GPT)})
    return folder


def test_a_file_without_stories_is_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = small.parent / "empty.txt"
    empty.write_text("\n")
    assert run(small, "--to", "onnx", "--data", empty) == 2
    assert capsys.readouterr().err == f"error: {empty} holds no story to measure 8 bits on; give a file with stories\n"


def test_the_command_writes_lists_and_reports(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stories = write_stories(small.parent / "held-out.txt", 12)
    assert run(small, "--to", "onnx", "--data", stories, "--bits", 8) == 0
    size = (small / "model.onnx").stat().st_size
    out = capsys.readouterr().out
    start = re.escape(f"{small}/model.onnx: 8 bits, {size:,} bytes, at 32 bits within ")
    assert re.fullmatch(start + r"[1-9]e-0[5-9] of PyTorch's logits, [+-].* nats per character on 12 stories\n", out)
    assert isinstance(model.load(small).decoder(), OnnxDecoder)
    assert run(small, "--to", "onnx") == 0  # it is so small that 32 bits are the default
    assert capsys.readouterr().out.startswith(f"{small}/model.onnx: 32 bits, ")


def test_eight_bits_are_measured_on_its_own_stories_without_others(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small, "--to", "onnx", "--bits", 8) == 0
    assert capsys.readouterr().out.endswith(" nats per character on stories it told itself; --data FILE takes others\n")


def test_a_graph_that_costs_too_much_is_not_written(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export_onnx, "NATS_TOLERANCE", -1.0)
    assert run(small, "--to", "onnx", "--bits", 8) == 2
    assert capsys.readouterr().err.endswith(
        f"write it with: .venv/bin/python -m train.export {small} --to onnx --bits 32\n"
    )
    assert not (small / "model.onnx").exists()


def test_a_graph_of_another_network_is_not_written(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(onnx_graph.EPSILON, "gpt", 1.0)
    assert run(small, "--to", "onnx") == 2
    message = r"differ from PyTorch's by up to [\d.]+ \(after symbol \d+ of 32\); at most [\d.]+ is allowed\n$"
    assert re.search(": the graph's logits " + message, capsys.readouterr().err)
    assert not (small / "model.onnx").exists()


@pytest.mark.parametrize("read", ["logits", "_append"])  # in chunks, one by one
def test_a_graph_may_round_as_its_processor_does(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], read: str
) -> None:
    """A rounding difference is allowed, even if it changes the greedy story.

    A larger one is refused, with its position.
    """
    weights = small_weights(GPT)
    weights["embedding.weight"][1::2] = weights["embedding.weight"][:-1:2]  # makes each pair of symbols equally likely
    artifacts.save(small, **parts() | {"weights": weights})

    def other(nudge: float) -> type[OnnxDecoder]:
        def nudged(decoder: OnnxDecoder, ids: list[int]) -> np.ndarray:
            logits = getattr(OnnxDecoder, read)(decoder, ids)
            logits[..., 1::2] += nudge if len(decoder._ids) == 20 or len(ids) > 1 else 0
            return logits

        return type("Other", (OnnxDecoder,), {read: nudged})

    monkeypatch.setattr(export_onnx, "OnnxDecoder", other(1e-5))
    assert run(small, "--to", "onnx", "--bits", 32) == 0
    monkeypatch.setattr(export_onnx, "OnnxDecoder", other(0.01))
    assert run(small, "--to", "onnx", "--bits", 32) == 2
    assert (" (after symbol 21 of 32)" in capsys.readouterr().err) == (read == "_append")


def test_without_onnx_the_fix_is_named(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("onnx", "onnx_graph"):
        monkeypatch.delitem(sys.modules, f"train.export.{name}")
    monkeypatch.delattr(sys.modules["train.export"], "onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run(small, "--to", "onnx") == 2
    install = ".venv/bin/python -m pip install -r requirements.txt"
    assert capsys.readouterr().err == f"error: --to onnx needs onnx, which is not installed: {install}\n"
    assert export.after_training(small, []).startswith("no model.onnx yet: --to onnx needs onnx")


def test_another_engine_plugs_in_as_a_module(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(storyteller: model.Storyteller, out: Path) -> list[str]:
        (out / "weights").write_text(storyteller.name)
        return ["weights"]

    engine = types.SimpleNamespace(write=write, names=lambda _: ["weights"])
    monkeypatch.setitem(sys.modules, "train.export.gguf", engine)
    assert run(small, "--to", "gguf", tmp_path) == 0
    assert (tmp_path / "weights").read_text() == "small"
    assert capsys.readouterr().out == f"{tmp_path}/weights: 5 bytes\n"  # other files in the folder are not its own


def test_mistakes_are_one_line(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        ([small, "--to", "onnx", "out"], "--to onnx takes no OUT: it writes into the artifact"),
        ([small, "--to", "gguf"], "--to gguf takes an OUT"),
        ([small, "--to", "gguf", "out", "--bits", "8"], "--data and --bits are for --to onnx"),
    ):
        with pytest.raises(SystemExit):
            run(*argv)
        assert capsys.readouterr().err.endswith(f"error: {message}\n")
    assert run(small.parent / "none", "--to", "onnx") == 2
    assert "is not a folder" in capsys.readouterr().err
