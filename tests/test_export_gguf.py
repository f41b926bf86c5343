"""The files for llama.cpp, read back with the reader of the format. In tests/engines llama.cpp itself runs them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, models, pre_tokenizers

import model
from model import artifacts
from model.artifacts import ArtifactError
from model.config import ModelConfig
from model.sampling import USUAL
from model.vocab import END, Vocab
from tests.conftest import parts
from train.export.gguf import tokens_and_merges, write

CONFIG = ModelConfig(context=64, layers=2, heads=2, width=64, hidden=96, loops=2)


@pytest.fixture(scope="module")
def storyteller(tmp_path_factory: pytest.TempPathFactory) -> model.Storyteller:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny"
    artifacts.save(folder, **parts(CONFIG))
    return model.load(folder)


@pytest.fixture(scope="module")
def folder(storyteller: model.Storyteller, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "tiny"
    write(storyteller, out)
    return out


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}


def test_the_folder_holds_both_precisions_and_a_modelfile(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "tiny-F32.gguf", "tiny-Q8_0.gguf"]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize(("kind", "file_type"), [("F32", 0), ("Q8_0", 7)])
def test_the_head_describes_a_qwen3_of_characters(
    storyteller: model.Storyteller, folder: Path, kind: str, file_type: int
) -> None:
    head = {name: field.contents() for name, field in GGUFReader(folder / f"tiny-{kind}.gguf").fields.items()}
    tokens = head.pop("tokenizer.ggml.tokens")
    assert (tokens[0], tokens[1], tokens[2], tokens[-1]) == ("Ċ", "Ġ", "!", "<|endoftext|>")
    assert tokens[2:] == storyteller.vocab.itos[2:]
    assert head.pop("tokenizer.ggml.token_type") == [1] * 96 + [3]
    assert {key: value for key, value in head.items() if not key.startswith("GGUF.")} == {
        "general.architecture": "qwen3",
        "general.name": "tiny",
        "general.file_type": file_type,
        "general.quantization_version": 2,
        "qwen3.context_length": 64,
        "qwen3.block_count": 4,
        "qwen3.embedding_length": 64,
        "qwen3.feed_forward_length": 96,
        "qwen3.attention.head_count": 2,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 32,
        "qwen3.attention.value_length": 32,
        "qwen3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "qwen3.rope.freq_base": 10_000.0,
        "qwen3.vocab_size": 97,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["Ā Ā"],
        "tokenizer.ggml.bos_token_id": 96,
        "tokenizer.ggml.eos_token_id": 96,
        "tokenizer.ggml.padding_token_id": 96,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


TEXT = "„Süße Äpfel“ — क़लम, कहानी। 从前有座山。 שלום 🐍👩‍👧 'll n't\n\n  \u0301"


def test_the_bytes_of_a_character_become_its_token() -> None:
    """The library tokenizers merges bytes by the same rule as llama.cpp, but wants a token for each merge."""
    assert tokens_and_merges(Vocab([*"aü\n🐍", END])) == (
        ["a", "Ã¼", "Ċ", "ðŁĲį", END],
        ["Ã ¼", "ð Ł", "ðŁ Ĳ", "ðŁĲ į"],
    )
    vocab = Vocab.of_counts(Counter(TEXT))
    tokens, merges = tokens_and_merges(vocab)
    pieces = dict.fromkeys([*tokens, *map("".join, map(str.split, merges)), *pre_tokenizers.ByteLevel.alphabet()])
    numbered = {piece: number for number, piece in enumerate(pieces)}
    engine = Tokenizer(models.BPE(numbered, [tuple(merge.split()) for merge in merges]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in (TEXT, "üöß", "🐍🐎x", "कखŁĲ", TEXT[::-1]):  # ö, 🐎 and ख begin with the bytes of known characters
        known = [id for id in engine.encode(text).ids if id < len(vocab)]
        assert known == vocab.encode("".join(c for c in text if c in vocab.stoi))


def test_float32_holds_the_weights_as_they_are(storyteller: model.Storyteller, folder: Path) -> None:
    ours = {name: weight.numpy() for name, weight in storyteller.network.state_dict().items()}
    exported = tensors(folder / "tiny-F32.gguf")
    assert len(exported) == 2 + 11 * 4
    np.testing.assert_array_equal(exported["token_embd.weight"], ours["embedding.weight"])
    np.testing.assert_array_equal(exported["output_norm.weight"], ours["norm.weight"])
    for layer in range(4):  # two blocks, applied twice
        a, b = f"blocks.{layer % 2}", f"blk.{layer}"
        together = {
            "attention.qkv": ("attn_q", "attn_k", "attn_v"),
            "mlp.gate_up": ("ffn_gate", "ffn_up"),
            "mlp.down": ("ffn_down",),
            "attention.out": ("attn_output",),
            "attention.q_norm": ("attn_q_norm",),
            "attention.k_norm": ("attn_k_norm",),
            "attention_norm": ("attn_norm",),
            "mlp_norm": ("ffn_norm",),
        }
        for name, names in together.items():
            joined = np.concatenate([exported[f"{b}.{part}.weight"] for part in names])
            np.testing.assert_array_equal(joined, ours[f"{a}.{name}.weight"])


def test_eight_bits_are_within_half_a_step(folder: Path) -> None:
    exact, rounded = tensors(folder / "tiny-F32.gguf"), tensors(folder / "tiny-Q8_0.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(folder / "tiny-Q8_0.gguf").tensors}
    assert kinds == {name: "F32" if weight.ndim == 1 else "Q8_0" for name, weight in exact.items()}
    for name, weight in exact.items():
        largest = np.abs(weight.reshape(-1, 32)).max(axis=1, keepdims=True)
        assert (np.abs(rounded[name] - weight).reshape(-1, 32) <= largest * (0.5 / 127 + 1e-3)).all(), name


def test_the_modelfile_has_the_settings_of_the_page(folder: Path) -> None:
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == '# ollama create tiny -f Modelfile && ollama run tiny "Once upon a time"'
    assert [line for line in lines if not line.startswith("#")] == [
        "FROM ./tiny-Q8_0.gguf",
        "TEMPLATE {{ .Prompt }}",
        "PARAMETER num_ctx 64",
        "PARAMETER num_predict 32",
        f"PARAMETER temperature {USUAL.temperature}",
        "PARAMETER top_k 0",
        "PARAMETER top_p 1.0",
        f"PARAMETER min_p {USUAL.min_p}",
        "PARAMETER repeat_penalty 1.0",
    ]


@pytest.mark.parametrize(
    ("prompts", "example"), [(["ROMEO:\nO"], ' "ROMEO:\\nO"'), (["एक „शेर“"], ' "एक „शेर“"'), ([], "")]
)
def test_the_modelfile_begins_a_story_as_its_text_does(tmp_path: Path, prompts: list[str], example: str) -> None:
    made = parts(CONFIG)
    artifacts.save(tmp_path / "m", **made | {"metrics": made["metrics"] | {"language": "hi", "prompts": prompts}})
    write(model.load(tmp_path / "m"), tmp_path / "out")
    first = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# ollama create m -f Modelfile && ollama run m{example}"


def test_classic_has_no_counterpart(tiny_classic: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^tiny-classic is a classic: .* have no counterpart in other engines; "):
        write(model.load(tiny_classic), tmp_path / "counterpart")
    assert list(tmp_path.iterdir()) == []
