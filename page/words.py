"""The texts of the page, from the table words.json: a new language is one more column there.

Python or the browser fills in the words in braces. What a model writes is in the language that it has learned. The
server's refusals are in English, because programs read them too; the browser translates them.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

TABLE: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
LANGUAGES = ("en", "de", "hi")
WORDS = gr.I18n(**{language: {key: words[language] for key, words in TABLE.items()} for language in LANGUAGES})
ENGLISH = {key: words["en"] for key, words in TABLE.items()}
