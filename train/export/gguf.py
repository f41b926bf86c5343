"""Exports a trained gpt as GGUF files, float32 and 8 bits, for llama.cpp and Ollama."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np

from model.atomic import replace_folder
from model.config import ROPE_THETA
from model.gpt import NORM_EPS
from model.sampling import USUAL
from model.storyteller import Storyteller
from model.vocab import END, Vocab
from train.export.transformers import qwen3_weights
from train.report import prompt_of

KINDS = {
    "F32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
# GPT-2 writes each byte as a printable character: that of its own code, or else one of the codes from 256 upwards.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = sorted({*range(256)} - {*_PRINTABLE})
GPT2_CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
UNUSED_MERGE = "Ā Ā"  # merges two zero bytes: loaders refuse a vocabulary without merges, and no text contains these


def names(storyteller: Storyteller) -> list[str]:
    """The files that `write` writes."""
    return [*(f"{storyteller.name}-{kind}.gguf" for kind in KINDS), "Modelfile"]


def write(storyteller: Storyteller, out: Path) -> list[str]:
    """Writes NAME-F32.gguf, NAME-Q8_0.gguf and a Modelfile into the folder `out`, in one step. Other files in it stay.

    Returns the names of the files. Raises ArtifactError if the model has no Qwen3 counterpart, and OSError if `out`
    cannot be written.
    """
    qwen3 = qwen3_weights(storyteller)
    tensors = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, storyteller.config.layers * storyteller.config.loops)
    weights = {tensors.get_name(name, try_suffixes=(".weight",)): weight for name, weight in qwen3.items()}
    contents = {f"{storyteller.name}-{kind}.gguf": _gguf(storyteller, weights, kind) for kind in KINDS}
    contents["Modelfile"] = _modelfile(storyteller).encode()
    replace_folder(out.resolve(), contents, owned=contents.keys())
    return sorted(contents)


def _gguf(storyteller: Storyteller, weights: dict[str, np.ndarray], kind: str) -> bytes:
    """Returns the file of one kind. Norms stay float32, as in llama.cpp."""
    to, file_type = KINDS[kind]
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.gguf"
        writer = gguf.GGUFWriter(path, "qwen3")
        writer.add_name(storyteller.name)
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _describe(writer, storyteller)
        for name, weight in weights.items():
            # 32 numbers share a scale; ModelConfig checks that all rows are multiples of 32
            dtype = to if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quantize(weight, dtype), raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _describe(writer: gguf.GGUFWriter, storyteller: Storyteller) -> None:
    """Writes the shape and the vocabulary. llama.cpp rotates the halves of a head as we do: no matrix is permuted."""
    config, vocab = storyteller.config, storyteller.vocab
    writer.add_context_length(config.context)
    writer.add_block_count(config.layers * config.loops)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_vocab_size(len(vocab))
    writer.add_tokenizer_model("gpt2")  # byte-level: a byte that is not in the vocabulary is dropped
    writer.add_tokenizer_pre("gpt-2")
    tokens, merges = tokens_and_merges(vocab)
    writer.add_token_list(tokens)
    kinds = {END: gguf.TokenType.CONTROL}
    writer.add_token_types([kinds.get(symbol, gguf.TokenType.NORMAL) for symbol in vocab.itos])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocab.end)
    writer.add_eos_token_id(vocab.end)
    writer.add_pad_token_id(vocab.end)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def tokens_and_merges(vocab: Vocab) -> tuple[list[str], list[str]]:
    """Returns the symbols in GPT-2's characters, one for each byte of UTF-8, and the merges that join these bytes.

    A merge adds the next byte to the first ones of a character. So a known character becomes its token. What becomes
    of another one, its first bytes perhaps, is no token and is dropped.
    """
    tokens = ["".join(GPT2_CHARACTERS[byte] for byte in symbol.encode()) for symbol in vocab.itos]
    characters = [token for token, symbol in zip(tokens, vocab.itos, strict=True) if symbol != END]
    merges = dict.fromkeys(f"{token[:n]} {token[n]}" for token in characters for n in range(1, len(token)))
    return tokens, list(merges) or [UNUSED_MERGE]


def _modelfile(storyteller: Storyteller) -> str:
    name, context, prompt = storyteller.name, storyteller.config.context, prompt_of(storyteller.metrics)
    example = f" {json.dumps(prompt, ensure_ascii=False)}" if prompt else ""  # Ollama takes no empty prompt
    return f"""\
# ollama create {name} -f Modelfile && ollama run {name}{example}
FROM ./{name}-Q8_0.gguf
# the story continues the prompt directly: there is no chat template
# each sentence is drawn once; the page of this model's project draws several drafts and keeps the best
TEMPLATE {{{{ .Prompt }}}}
PARAMETER num_ctx {context}
PARAMETER num_predict {min(USUAL.length, context // 2)}
PARAMETER temperature {USUAL.temperature}
PARAMETER top_k 0
PARAMETER top_p {USUAL.top_p}
PARAMETER min_p {USUAL.min_p}
# a story repeats its letters: there must be no penalty
PARAMETER repeat_penalty 1.0
"""
