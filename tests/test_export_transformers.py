"""The folder for transformers: the library loads it as a Qwen3, and it tells the same stories as our model."""

from __future__ import annotations

import json
import shlex
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer, pipeline
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

import model
from model import artifacts
from model.config import ModelConfig
from model.sampling import USUAL
from model.vocab import END, Vocab
from tests.conftest import parts, random_weights
from train.export.__main__ import main
from train.export.transformers import tokenizer, write

PROMPT = "Once upon a time"
ODD = "“Zoë’s café” — 3 × ½… \U0001f40d日\tÆon\r\nend´s"  # noqa: RUF001
CONFIG = ModelConfig(context=256, layers=2, heads=2, width=32, hidden=96, loops=2)


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


@pytest.fixture(scope="module")
def qwen3(folder: Path) -> Qwen3ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def letters(folder: Path) -> object:
    return AutoTokenizer.from_pretrained(folder)


def greedy(storyteller: model.Storyteller, prompt: str, length: int) -> str:
    return "".join(storyteller.tell(prompt, model.Sampling(length=length, temperature=0)))


def test_it_is_a_plain_qwen3_in_float32(qwen3: Qwen3ForCausalLM) -> None:
    assert type(qwen3) is Qwen3ForCausalLM
    assert qwen3.dtype == torch.float32
    assert qwen3.config.num_hidden_layers == 4
    assert qwen3.config.rope_parameters == {"rope_theta": 10_000.0, "rope_type": "default"}
    assert qwen3.lm_head.weight is qwen3.model.embed_tokens.weight


def test_all_weights_are_loaded_and_none_is_missing(folder: Path) -> None:
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report


def test_logits_are_the_same_over_a_whole_context(storyteller: model.Storyteller, qwen3: Qwen3ForCausalLM) -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 97, (2, CONFIG.context)))
    with torch.inference_mode():
        torch.testing.assert_close(qwen3(ids).logits, storyteller.network(ids), atol=1e-4, rtol=0)


def test_greedy_story_is_the_same(storyteller: model.Storyteller, qwen3: Qwen3ForCausalLM, letters) -> None:
    read = letters(PROMPT, return_tensors="pt")
    ids = qwen3.generate(**read, do_sample=False, max_new_tokens=200, temperature=None, top_p=None, top_k=None)
    expected = greedy(storyteller, PROMPT, 200)
    assert letters.decode(ids[0], skip_special_tokens=True) == PROMPT + expected
    assert len(expected) == 200


@pytest.mark.parametrize("prompt", ["", PROMPT, " a  b \n\n c ", "'s n't  .", "\n", ODD])
def test_a_prompt_is_read_as_we_read_it(storyteller: model.Storyteller, letters, prompt: str) -> None:
    read = letters(prompt)
    assert sorted(read) == ["attention_mask", "input_ids"]
    assert read["input_ids"] == storyteller.prepare(prompt).ids
    assert letters.decode(read["input_ids"], skip_special_tokens=True) == storyteller.prepare(prompt).text


def test_every_character_becomes_what_we_make_of_it() -> None:
    vocab = Vocab.ascii()
    clean = tokenizer(vocab).normalizer.normalize_str
    # Only characters of Unicode 3.2: Python may know newer ones, such as three superscript letters of 2021, that
    # tokenizers does not know.
    known = [c for c in map(chr, range(0x20000)) if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs")]
    # Most characters are dropped. Only if the text of a whole row differs are its characters compared one by one.
    for start in range(0, len(known), 256):
        row = known[start : start + 256]
        if clean("|".join(row)) != "|".join(vocab.fit(c)[0] for c in row):
            assert {c: clean(c) for c in row} == {c: vocab.fit(c)[0] for c in row}


def test_a_vocabulary_of_any_script_reads_what_we_read() -> None:
    """Signs of regular expressions, accents, vowel signs, jamo and syllables, controls; composed or not."""
    blocks = (32, 0x180), (0x300, 0x370), (0x5D0, 0x660), (0x900, 0x980), (0x1100, 0x1200), (0x4E00, 0x6200)
    blocks += (0x1F300, 0x1F700), (0xAC00, 0xB000)
    vocab = Vocab.of_counts({chr(code): 1 for block in blocks for code in range(*block)} | {"\n": 1, "\u200d": 1})
    read = Tokenizer.from_str(tokenizer(vocab).to_str())
    known = [c for c in map(chr, range(0x20000)) if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs")]
    known += "\ufdd0\uffff\u2067\x85"
    rows = ["|".join(known[start : start + 256]) for start in range(0, len(known), 256)]
    marks = "".join(f"{c}\u202e\u0323{c}\u0301\u093c\u0947" for c in "eßक日ㅏᄀع")
    for text in (*rows, *(unicodedata.normalize("NFD", row) for row in rows), marks, "\ta\r\n\rb\u2028\0c", ODD, "क़"):
        fitted, ids = vocab.fit(text)[0], read.encode(text).ids
        assert ids == [vocab.end, *vocab.encode(fitted)], ascii(text)
        assert read.decode(ids) == fitted


def test_a_vocabulary_without_newline_reads_a_blank() -> None:
    vocab = Vocab([END, *" abc"])
    assert tokenizer(vocab).encode("a\nb\r\nd c").ids == [0, *vocab.encode("a b  c")]


def test_tokens_and_text_are_those_of_the_vocabulary(storyteller: model.Storyteller, letters) -> None:
    assert letters.get_vocab() == storyteller.vocab.stoi
    assert (letters.bos_token, letters.eos_token, letters.pad_token) == (END, END, END)
    assert letters.bos_token_id == storyteller.vocab.end
    assert letters("a", "b")["input_ids"] == [96, *storyteller.vocab.encode("a"), 96, *storyteller.vocab.encode("b")]


def test_a_prompt_beyond_the_context_keeps_its_end(letters) -> None:
    ids = letters("x" * 300 + "end", truncation=True)["input_ids"]
    assert len(ids) == CONFIG.context
    assert letters.decode(ids).endswith("xend")


def test_left_padded_batch_tells_what_each_prompt_tells_alone(
    storyteller: model.Storyteller, qwen3: Qwen3ForCausalLM, letters
) -> None:
    prompts = ["Tom", PROMPT, "The é cat and the \U0001f40d"]
    read = letters(prompts, return_tensors="pt", padding=True)
    assert read["attention_mask"][0].tolist() == [0] * (read["input_ids"].shape[1] - 4) + [1] * 4
    ids = qwen3.generate(**read, do_sample=False, max_new_tokens=30, temperature=None, top_p=None, top_k=None)
    told = letters.batch_decode(ids[:, read["input_ids"].shape[1] :], skip_special_tokens=True)
    assert told == [greedy(storyteller, prompt, 30) for prompt in prompts]


def test_pipeline_tells_and_stops_by_itself(storyteller: model.Storyteller, folder: Path) -> None:
    tell = pipeline("text-generation", str(folder))
    story = tell(ODD, do_sample=False, max_new_tokens=40, temperature=None, top_p=None, top_k=None)[0]["generated_text"]
    assert story.endswith(greedy(storyteller, ODD, 40))
    torch.manual_seed(0)
    drawn = tell(PROMPT, return_full_text=False)[0]["generated_text"]
    assert 0 < len(drawn) <= CONFIG.context // 2


def test_streamed_pieces_are_the_story(storyteller: model.Storyteller, qwen3: Qwen3ForCausalLM, letters) -> None:
    streamer = TextIteratorStreamer(letters, skip_prompt=True, skip_special_tokens=True, timeout=20)
    settings = {"do_sample": False, "max_new_tokens": 60, "temperature": None, "top_p": None, "top_k": None}
    thread = Thread(
        target=qwen3.generate, kwargs={**letters(PROMPT, return_tensors="pt"), **settings, "streamer": streamer}
    )
    thread.start()
    assert "".join(streamer) == greedy(storyteller, PROMPT, 60)
    thread.join()


def test_generation_settings_are_those_of_the_page(qwen3: Qwen3ForCausalLM) -> None:
    settings = qwen3.generation_config
    assert settings.do_sample
    assert (settings.temperature, settings.top_k, settings.top_p) == (USUAL.temperature, USUAL.top_k, USUAL.top_p)
    assert (settings.max_new_tokens, settings.eos_token_id, settings.pad_token_id) == (128, 96, 96)


def test_the_card_says_how_to_serve_the_model(storyteller: model.Storyteller, folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "vllm serve PATH/OF/THIS/FOLDER --served-model-name tiny" in card
    assert f"{storyteller.metrics['nats_per_character']:.4f} nats per character" in card


def test_a_model_of_another_language_tells_the_same_and_its_card_says_so(tmp_path: Path) -> None:
    vocab = Vocab.of_counts(Counter("„Der Bär isst süße Äpfel“ 从前有座山 शेर\n"))
    config, made = replace(CONFIG, vocab_size=len(vocab)), parts(CONFIG)
    made |= {"config": config, "vocab": vocab, "weights": random_weights(config)}
    for language, prompts, prompt, languages in (
        ("no", ["Der »Bär« isst's"], "Der »Bär« isst's", "language: 'no'\n"),
        ("zh-Hans", [], "", "language: zh\nlanguage_bcp47:\n- zh-Hans\n"),
        (None, [], "", ""),
    ):
        more = {"language": language, "prompts": prompts}
        artifacts.save(tmp_path / "tiny", **made | {"metrics": made["metrics"] | more})
        storyteller = model.load(tmp_path / "tiny")
        write(storyteller, tmp_path / "out")
        card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
        assert card.startswith(f"---\nlicense: mit\n{languages}library_name: transformers\n")
        assert "- A letter and its accent become one character (NFC). Characters that the model does" in card
        request = shlex.split(card.split("-H 'Content-Type: application/json' \\\n")[1].split("\n```")[0])[1]
        assert json.loads(request) == {"model": "tiny", "prompt": prompt, "max_tokens": 128}
        assert f'\nprint(tell("{prompt}")[0]["generated_text"])\n' in card
    tell = pipeline("text-generation", str(tmp_path / "out"))
    settings = {"do_sample": False, "max_new_tokens": 40, "temperature": None, "top_p": None, "top_k": None}
    for prompt in ("Der »Ba\u0308r«", ""):
        told = tell(prompt, return_full_text=False, **settings)[0]["generated_text"]
        assert told == greedy(storyteller, prompt, 40)


def test_a_folder_is_replaced_and_keeps_other_files(storyteller: model.Storyteller, tmp_path: Path) -> None:
    out = tmp_path / "counterpart"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "config.json").write_text("{}")
    write(storyteller, out)
    write(storyteller, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "notes.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["counterpart"]
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "qwen3"


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, out: Path) -> str:
    """Returns the one line that the command prints when it is refused."""
    assert main([str(folder), "--to", "transformers", str(out)]) == 2
    return capsys.readouterr().err.removeprefix("error: ").removesuffix("\n")


def test_an_artifact_is_not_written_over(storyteller: model.Storyteller, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, storyteller.folder, storyteller.folder) == (
        f"{storyteller.folder} holds an artifact, which the export would damage; give a folder of its own"
    )
    assert model.load(storyteller.folder).config == CONFIG


def test_classic_has_no_counterpart(tiny_classic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, tiny_classic, tmp_path / "counterpart") == (
        "tiny-classic is a classic: its learned positions, ReLU and attention scale have no counterpart in other "
        "engines; export a model of the gpt architecture, such as pocket"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_an_end_mark_has_no_counterpart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(vocab_size=4, context=32, layers=1, heads=1, width=32)
    artifacts.save(tmp_path / "endless", **parts(config) | {"vocab": Vocab.from_text(" abc")})
    assert refusal(capsys, tmp_path / "endless", tmp_path / "counterpart") == (
        "endless has no end mark to open its stories and to stop at; train it with --cleaning story or verbatim"
    )


def test_no_custom_code_is_needed(folder: Path) -> None:
    assert "auto_map" not in (folder / "config.json").read_text() + (folder / "tokenizer_config.json").read_text()
    assert not list(folder.glob("*.py"))
