"""The script of a character, and the language that a text in that script is most likely in."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.vocab import END, Vocab
from train.text.encoded import symbol_counts

# The language that most text in a script is in, after Unicode's "likely subtags". Latin alone says nothing.
LANGUAGES = {
    **{"Arabic": "ar", "Armenian": "hy", "Bengali": "bn", "Chinese": "zh", "Cyrillic": "ru", "Devanagari": "hi"},
    **{"Ethiopic": "am", "Georgian": "ka", "Greek": "el", "Gujarati": "gu", "Gurmukhi": "pa", "Hangul": "ko"},
    **{"Hebrew": "he", "Hiragana": "ja", "Kannada": "kn", "Khmer": "km", "Lao": "lo", "Malayalam": "ml"},
    **{"Myanmar": "my", "Oriya": "or", "Sinhala": "si", "Tamil": "ta", "Telugu": "te", "Thai": "th"},
    **{"Tibetan": "bo"},
}


def script_of(character: str) -> str:
    """The script of a letter, as the first word of its Unicode name has it; "symbols" for all else."""
    if unicodedata.category(character)[0] not in "LM":
        return "symbols"
    name = unicodedata.name(character, "symbols").split()[0]
    return "Chinese" if name == "CJK" else name.capitalize()


def language_of(counts: Mapping[str, int]) -> str | None:
    """The language of a text by its counted characters, or None if its script does not tell.

    More than half of the letters must be of one script. Japanese is written in three.
    """
    scripts: Counter[str] = Counter()
    for character, count in counts.items():
        scripts[script_of(character)] += count
    del scripts["symbols"]
    kana = scripts["Hiragana"] + scripts.pop("Katakana", 0)
    if kana > scripts["Chinese"] / 10:  # a Chinese text may quote a few
        scripts["Hiragana"] = kana + scripts.pop("Chinese", 0)
    script = max(scripts, key=scripts.__getitem__, default="")
    return LANGUAGES.get(script) if 2 * scripts[script] > scripts.total() else None


def recorded_language(
    given: str | None, vocab: Vocab, text: np.ndarray, kind: str = "auto", base: str | None = None
) -> dict[str, str | None]:
    """What metrics.json says about the language: the given one, else that of the encoded text (N,), else the base's.

    Text in ASCII counts as English, of which nothing is said, unless the vocabulary of the `kind` text was asked for.
    """
    if given or (vocab.is_ascii and kind != "text"):
        found = given or base
        return {"language": found} if found else {}
    counts = symbol_counts(text, len(vocab)).tolist()
    return {"language": language_of({c: n for c, n in zip(vocab.itos, counts, strict=True) if c != END}) or base}


def card_language(metrics: Mapping[str, Any]) -> str | None:
    """The language that a card names, without country and script: English unless metrics.json says otherwise."""
    code = metrics.get("language", "en")
    return code and code.split("-")[0]


def hub_language(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The language as the front matter of a card: the Hub knows countries and scripts only as `language_bcp47`."""
    code = metrics.get("language", "en")
    full = {"language_bcp47": [code]} if code and "-" in code else {}
    return ({"language": card_language(metrics)} if code else {}) | full
