"""The tab "Training": each run's figures, curves and command, which all come from its artifact."""

from __future__ import annotations

import gradio as gr

from page.links import card
from page.models import Models
from page.theme import view
from page.words import WORDS

SHOWN = ("parameters", "nats_per_character", "steps", "characters_seen", "seconds", "data")  # of metrics.json


def training_tab(models: Models) -> None:
    runs = models.storytellers.items()
    shown = [
        {"name": name, "card": card(name), "evaluated_on": it.evaluated_on.name, "log": it.log}
        | {key: it.metrics.get(key) for key in SHOWN}
        for name, it in runs
    ]
    # One line each: after a line break, a text could end the block of code that it stands in.
    commands = [
        f"# {name}\n{' '.join(str(it.metrics['command']).split())}\n" for name, it in runs if it.metrics.get("command")
    ]
    gr.Markdown(WORDS("training_info"))
    view("runs", runs=shown)
    if commands:
        with gr.Accordion(WORDS("commands"), open=False):
            gr.Markdown("\n".join(["~~~", *commands, "~~~"]))
    gr.Markdown(WORDS("retrain"))
    gr.Markdown(WORDS("data"))
