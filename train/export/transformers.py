"""Exports a trained gpt as a Qwen3 folder, for `transformers`, vLLM and every other engine that runs Qwen3."""

from __future__ import annotations

import json
import shlex
import unicodedata
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save as to_safetensors
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from model.artifacts import ArtifactError
from model.atomic import replace_folder
from model.config import ROPE_THETA
from model.gpt import NORM_EPS
from model.sampling import USUAL
from model.storyteller import Storyteller
from model.vocab import END, Vocab
from train.report import prompt_of
from train.text.scripts import hub_language

BLOCK_NAMES = {  # the matrices and norms of a block that only get another name
    "attention_norm": "input_layernorm",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.down": "mlp.down_proj",
}
MARKS = "bos_token", "eos_token", "pad_token"  # all three are our end mark
_LAST_MAPPED = 0x3000  # from this code on, `normalise` only uses the decompositions of Unicode
_LAST_CONTROL = 0x10000  # from this code on, `compose` only composes


def names(storyteller: Storyteller) -> list[str]:
    """The files that `write` writes."""
    return [*_settings(storyteller), "tokenizer.json", "model.safetensors", "README.md"]


def write(storyteller: Storyteller, out: Path) -> list[str]:
    """Writes the Qwen3 counterpart into the folder `out`, in one step. Files with other names in it stay.

    Returns the names of the files. Raises ArtifactError if the model has no Qwen3 counterpart, and OSError if `out`
    cannot be written.
    """
    weights = qwen3_weights(storyteller)
    settings = {name: (json.dumps(each, indent=2) + "\n").encode() for name, each in _settings(storyteller).items()}
    contents = settings | {
        "tokenizer.json": tokenizer(storyteller.vocab).to_str(pretty=True).encode(),
        "model.safetensors": to_safetensors(weights, metadata={"format": "pt"}),
        "README.md": _card(storyteller).encode(),
    }
    replace_folder(out.resolve(), contents, owned=contents.keys())
    return sorted(contents)


def qwen3_weights(storyteller: Storyteller) -> dict[str, np.ndarray]:
    """Returns the weights, float32, by their names in Qwen3. Blocks that are applied `loops` times are repeated.

    Raises ArtifactError if the model has no counterpart in Qwen3.
    """
    config, name = storyteller.config, storyteller.name
    if config.architecture != "gpt":
        raise ArtifactError(
            f"{name} is a {config.architecture}: its learned positions, ReLU and attention scale have no counterpart "
            "in other engines; export a model of the gpt architecture, such as pocket"
        )
    if storyteller.vocab.end is None:
        raise ArtifactError(
            f"{name} has no end mark to open its stories and to stop at; train it with --cleaning story or verbatim"
        )
    ours = {key: np.ascontiguousarray(weight.numpy()) for key, weight in storyteller.network.state_dict().items()}
    qwen3 = {"model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["norm.weight"]}
    for layer in range(config.layers * config.loops):
        a, b = f"blocks.{layer % config.layers}", f"model.layers.{layer}"
        qwen3 |= {f"{b}.{there}.weight": ours[f"{a}.{here}.weight"] for here, there in BLOCK_NAMES.items()}
        for part, matrix in zip("qkv", np.split(ours[f"{a}.attention.qkv.weight"], 3), strict=True):
            qwen3[f"{b}.self_attn.{part}_proj.weight"] = matrix
        for part, matrix in zip(("gate", "up"), np.split(ours[f"{a}.mlp.gate_up.weight"], 2), strict=True):
            qwen3[f"{b}.mlp.{part}_proj.weight"] = matrix
    return qwen3


def tokenizer(vocab: Vocab) -> Tokenizer:
    """Returns a tokenizer with one token per character. The end mark opens each text.

    Text is cleaned as by `Vocab.fit`, but mojibake is not repaired, and the library's Unicode is older than Python's:
    where two marks on a letter have another order, those of Unicode 10 and later, all of rare scripts, keep theirs.
    """
    characters = "".join(f"\\x{{{ord(symbol):x}}}" for symbol in vocab.itos if symbol != END)
    built = Tokenizer(models.BPE(vocab.stoi, []))  # without merges each character stays its own token
    built.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("\r\n", "\n"),
            *(_to_ascii() if vocab.is_ascii else [*_replacements(vocab), normalizers.NFC()]),
            *([] if "\n" in vocab.stoi else [normalizers.Replace("\n", " ")]),
            normalizers.Replace(Regex(f"[^{characters}]"), ""),
        ]
    )
    built.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END}:1 $B:1", special_tokens=[(END, vocab.end)]
    )
    built.decoder = decoders.Fuse()
    built.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return built


def _to_ascii() -> list[normalizers.Normalizer]:
    acute = normalizers.Replace("´", "'")  # noqa: RUF001 (else it decomposes to a blank and an accent)
    return [acute, normalizers.NFKD(), *_replacements(Vocab.ascii())]


def _replacements(vocab: Vocab) -> list[normalizers.Replace]:
    """Returns what cleaning replaces beyond Unicode's normal form, one step for each replacement text.

    In ASCII the steps leave out what is dropped, because all that is not in the vocabulary is.
    """
    form, last = ("NFKD", _LAST_MAPPED) if vocab.is_ascii else ("NFC", _LAST_CONTROL)
    table = []
    for character in map(chr, range(last)):
        plain = vocab.clean(character)
        kept = plain == character or unicodedata.category(character) == "Cs"  # halves of characters are no text there
        if not kept and (plain or not vocab.is_ascii) and unicodedata.normalize(form, character) == character:
            table.append((plain, f"\\x{{{ord(character):x}}}"))
    groups = groupby(sorted(table), key=lambda pair: pair[0])
    return [normalizers.Replace(Regex(f"[{''.join(code for _, code in group)}]"), plain) for plain, group in groups]


def _settings(storyteller: Storyteller) -> dict[str, dict[str, Any]]:
    """Returns the JSON files.

    Stories are drawn with the page's settings; half the context is reserved for the prompt.
    """
    config = storyteller.config
    ids = {f"{mark}_id": storyteller.vocab.end for mark in MARKS}
    return {
        "config.json": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "torch_dtype": "float32",
            "vocab_size": config.vocab_size,
            "hidden_size": config.width,
            "intermediate_size": config.hidden_width,
            "num_hidden_layers": config.layers * config.loops,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "head_dim": config.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": config.context,
            "rms_norm_eps": NORM_EPS,
            "rope_theta": ROPE_THETA,
            "tie_word_embeddings": True,
            **ids,
        },
        "generation_config.json": {
            "do_sample": True,
            "temperature": USUAL.temperature,
            "top_k": USUAL.top_k,  # without it, transformers keeps 50 and vLLM all
            "top_p": USUAL.top_p,
            "max_new_tokens": min(USUAL.length, config.context // 2),
            **ids,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **dict.fromkeys(MARKS, END),
            "padding_side": "left",
            "truncation_side": "left",  # a story continues the end of its prompt
            "model_max_length": config.context,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        },
    }


def _card(storyteller: Storyteller) -> str:
    name, config, nats = storyteller.name, storyteller.config, storyteller.metrics["nats_per_character"]
    prompt, languages = prompt_of(storyteller.metrics), hub_language(storyteller.metrics)
    request = {"model": name, "prompt": prompt, "max_tokens": config.context // 2}
    dropped = "Quotes and dashes become their ASCII counterparts, and accents are removed. Other unknown characters are"
    if not storyteller.vocab.is_ascii:
        dropped = "A letter and its accent become one character (NFC). Characters that the model does not know are"
    return f"""---
license: mit
{yaml.safe_dump(languages) if languages else ""}library_name: transformers
pipeline_tag: text-generation
tags:
- character-level
- from-scratch
---

# {name}

A character-level GPT of {storyteller.metrics["parameters"]:,} parameters, trained from scratch: {nats:.4f} nats per \
character on held-out text.
Its architecture is Qwen3's ({config.layers * config.loops} layers, width {config.width}, float32), its vocabulary \
{config.vocab_size} symbols: one token is one character. No custom code is needed.

## transformers

```python
from transformers import pipeline

tell = pipeline("text-generation", "PATH/OF/THIS/FOLDER")
print(tell({json.dumps(prompt, ensure_ascii=False)})[0]["generated_text"])
```

## vLLM

```
vllm serve PATH/OF/THIS/FOLDER --served-model-name {name} --dtype float32 \\
    --override-generation-config '{{"max_new_tokens": {config.context}}}'
curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d {shlex.quote(json.dumps(request, ensure_ascii=False))}
```

This needs a GPU. `--dtype float32` gives the same stories as the original; `--dtype float16` is faster.

## What to know

- The end mark `{END}` opens every prompt (the tokenizer adds it) and closes every story.
- {dropped} dropped.
- Prompt and story together must fit into {config.context} characters. It is no chat model: it has no chat template.
- Stories are drawn once, symbol by symbol. The page of this model's project draws several drafts of each sentence and
  keeps the best. That makes better stories. It is a part of the page, not of the model.
- It writes in the style of its training text and knows nothing else. Nothing filters what it writes.
"""
