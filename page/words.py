"""The words of the page, out of the one table words.json: a new language is one more column there.

Words in braces are filled in, by Python or by the browser. What a model says stays English. The server refuses in
English, for programs read that too, and the browser says it in the visitor's language.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

TABLE: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
LANGUAGES = ("en", "de", "hi")
WORDS = gr.I18n(**{language: {key: words[language] for key, words in TABLE.items()} for language in LANGUAGES})
ENGLISH = WORDS.translations["en"]
