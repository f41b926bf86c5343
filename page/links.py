"""Links to where the page, its models and their data come from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote

import gradio as gr

from page.words import WORDS

PUBLIC = {
    "dataset": "https://huggingface.co/datasets/roneneldan/TinyStories",
    "paper": "https://arxiv.org/abs/2305.07759",
}


def source(environment: Mapping[str, str] = os.environ) -> str:
    """The address of the files of the Space that serves this page; "" on another machine, where nothing names one."""
    space = environment.get("SPACE_ID", "")
    return f"https://huggingface.co/spaces/{space}/tree/main" if space else ""


def card(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The address of a model's card there; "" without such a place."""
    files = source(environment).replace("/tree/", "/blob/")
    return f"{files}/artifacts/{quote(name)}/README.md" if files and name else ""


def links(model: str) -> None:
    """The links at the foot of the page. Gradio's Markdown opens them in a new tab."""
    with gr.Row(elem_id="links"):
        for name, address in ({"source": source(), "card": card(model)} | PUBLIC).items():
            if address:
                gr.Markdown(f"[{WORDS(name)}]({address})")
