"""The language of a text: found by its script, or given; and what a card says about it."""

from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np
import pytest

from model.config import ModelConfig
from model.vocab import Vocab
from train.report import card, prompt_of
from train.text.scripts import LANGUAGES, language_of, recorded_language, script_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("एक शेर था। OK", "hi"),
        ("从前有座山,山里有座庙。の ABC", "zh"),
        ("昔々、或る所に爺と婆が住んで居た", "ja"),
        ("コーヒーをください", "ja"),
        ("옛날 옛적에 漢字", "ko"),
        ("Жил-был кот. Cat.", "ru"),
        ("Ήταν μια φορά", "el"),
        ("היה היה פעם", "he"),
        ("كان يا ما كان", "ar"),
        ("กาลครั้งหนึ่ง", "th"),
        ("Es war einmal ein Mädchen, das aß gern Käse", None),
        ("Кот cat", None),
        ("🐍 … 123\n", None),
        ("", None),
    ],
)
def test_a_script_that_is_most_of_a_text_names_its_language(text: str, language: str | None) -> None:
    assert language_of(Counter(text)) == language


def test_every_script_of_the_table_is_one_of_unicode() -> None:
    assert LANGUAGES.keys() < {script_of(chr(c)) for c in range(0x30000) if unicodedata.category(chr(c)) != "Cs"}


def test_the_language_is_recorded_where_it_is_not_ascii_or_given() -> None:
    vocab = Vocab.of_counts(Counter("Кот Tom"))
    russian, neither = (np.array(vocab.encode(text), np.uint16) for text in ("Кот от Tom", "Кот Tom Tom"))
    assert recorded_language(None, vocab, russian) == {"language": "ru"}
    assert recorded_language(None, vocab, neither) == {"language": None}
    assert recorded_language("uk", vocab, russian) == {"language": "uk"}
    assert recorded_language(None, Vocab.ascii(), neither) == {}
    assert recorded_language(None, Vocab.ascii(), neither, "text") == {"language": None}
    assert recorded_language(None, vocab, neither, base="pt-BR") == {"language": "pt-BR"}  # as the tuned model's base
    assert recorded_language(None, vocab, russian, base="pt-BR") == {"language": "ru"}
    assert recorded_language(None, Vocab.ascii(), neither, base="it") == {"language": "it"}
    assert recorded_language("de-AT", Vocab.ascii(), neither) == {"language": "de-AT"}


def test_a_card_begins_as_its_text_does() -> None:
    usual = {"name": "m", "data": {"name": "d", "train": {"characters": 9}}, "evaluation": {"stories": 1, "data": "d"}}
    usual |= dict.fromkeys(("nats_per_character", "bits_per_character", "seconds"), 1.0)
    usual |= dict.fromkeys(("parameters", "characters_seen", "steps"), 1) | {"device": "cpu", "precision": "fp32"}
    usual |= {"command": "train"}
    english = "\nIt writes English in the manner of its training text and knows "
    for more, prompt, quoted in (
        ({}, "Once upon a time", "'Once upon a time'"),
        ({"language": "en-GB"}, "Once upon a time", "'Once upon a time'"),
        ({"language": "hi", "prompts": ["एक शेर", "x"]}, "एक शेर", "'एक शेर'"),
        ({"language": "de", "prompts": []}, "", "''"),
        ({"language": None}, "", "''"),
    ):
        made = card(usual | more, ModelConfig(), "The story.")
        assert prompt_of(usual | more) == prompt and f'\nPrompt "{prompt}", temperature ' in made
        assert "\n```\nThe story.\n```\n" in made
        assert f"\n.venv/bin/python -m model {quoted} --model artifacts/m --seed 7\n" in made
        assert (english if prompt == "Once upon a time" else english.replace("English ", "")) in made
    made = card(usual | {"prompts": ["<b>```"]}, ModelConfig(), "```\n# No heading")
    assert '\nPrompt "&lt;b&gt;```", temperature ' in made and "\n````\n```\n# No heading\n````\n" in made
