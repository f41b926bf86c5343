"""The page: lays out the tabs and wires them to page/ and model/; run it with `python app.py`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
# Gradio tabulates all calls at the end of each, with pandas, for a dashboard that this page does not have.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: one thread per story

import gradio as gr
from gradio.block_function import BlockFunction
from starlette.middleware import Middleware

from model.sampling import USUAL
from page.gate import Gate
from page.gradio_fixes import CalmStop, EarlyStop, NoFigures, WholeDocument
from page.limits import MAX_LENGTH, Refusal, in_place
from page.looks import STYLE, THEME, head, view
from page.scheduler import STORIES
from page.share import FairQueue, trust_the_hub
from page.shelf import HAS_TORCH, Shelf
from page.slow_clients import end_stalled_connections
from page.tools import serve_tools
from page.words import ENGLISH, WORDS
from page.zerogpu import register

STORIES_AT_ONCE = STORIES  # told at the same time, a character each in turn
LOOKS_AT_ONCE = 2  # texts scored at the same time, and the like: each takes a fraction of a second
WAITING = 32  # queued behind them; more are turned away
SESSIONS = 100  # whose form Gradio remembers, 0.1 MB each; the page does without that, so a reader loses nothing

HERE = dict(fn=None, queue=False, api_visibility="private")  # in the browser, without the server
TELLING = dict(concurrency_limit=STORIES_AT_ONCE, concurrency_id="stories")
COMPARING = dict(concurrency_limit=1, concurrency_id="comparisons")  # each is a story of every model
LOOKING = dict(concurrency_limit=LOOKS_AT_ONCE, concurrency_id="looks")


class Page(gr.Blocks):
    """Blocks whose functions get the values as they were sent.

    Gradio's own checks, of components and of files among the values, answer `null` and log a traceback; those of
    `page.limits` name the limit.
    """

    async def preprocess_data(self, block_fn: BlockFunction, inputs: list, *_: object) -> list:
        if block_fn.fn is None:
            raise Refusal(f"/{block_fn.api_name} is a step of the page in the browser; call /tell", "")
        if len(inputs) != len(block_fn.inputs):
            raise Refusal(f"/{block_fn.api_name} takes {len(block_fn.inputs)} values, not {len(inputs)}", "")
        return inputs


class Settings(NamedTuple):
    """The controls beside the tabs."""

    model: gr.Dropdown
    length: gr.Slider
    temperature: gr.Slider
    top_k: gr.Slider
    top_p: gr.Slider
    min_p: gr.Slider
    seed: gr.Number


def build(shelf: Shelf) -> Page:
    """The page for what stands on the shelf; it is served by `launch()`."""
    with Page(title=ENGLISH["title"], analytics_enabled=False) as page:
        view("heading")
        if shelf.storytellers:
            view("settings", elem_id="settings_button", padding=False)
            with gr.Row():
                # Made first, as the tabs listen to it, and put after them.
                with gr.Column(scale=2, min_width=260, elem_id="settings", render=False) as beside:
                    settings = settings_column(shelf)
                with gr.Column(scale=5, min_width=300), gr.Tabs():
                    with gr.Tab(WORDS("tell_tab"), id="tell") as tell:
                        story = tell_tab(page, shelf, settings)
                    with gr.Tab(WORDS("look_tab"), id="look") as look:
                        look_tab(shelf, settings, story)
                    with gr.Tab(WORDS("compare_tab"), id="compare") as compare:
                        compare_tab(shelf, settings)
                    with gr.Tab(WORDS("training_tab"), id="training") as training:
                        training_tab(shelf)
                beside.render()
            for tab in (tell, look, compare, training):
                tab.select(js=f"() => storyteller.enter('{tab.id}')", **HERE)
            endpoints(shelf)
        else:
            view("none", {"folder": shelf.folder.name})
        for label, troubles in (("skipped", shelf.skipped), ("slower", shelf.warnings)):
            if troubles:
                lines = "\n".join(f"{name}: {reason}" for name, reason in troubles.items())
                gr.Textbox(lines, label=WORDS(label), interactive=False, max_lines=8, elem_id=label)
    # Direct calls would pass the queue by and with it the limit on stories told at once.
    page.queue(api_open=False)
    page._queue = FairQueue(page, WAITING)
    return page


def settings_column(shelf: Shelf) -> Settings:
    names = [(f"{name} · {it.metrics['parameters'] / 1e6:.2f} M", name) for name, it in shelf.storytellers.items()]

    def slider(name: str, least: float, most: float, value: float, step: float, **more: object) -> gr.Slider:
        return gr.Slider(least, most, value, step=step, label=WORDS(name), elem_id=name, buttons=[], **more)

    model = gr.Dropdown(names, value=shelf.best, label=WORDS("model"), info=WORDS("model_info"), elem_id="model")
    length = slider("length", 1, MAX_LENGTH, USUAL.length, 1)
    temperature = slider("temperature", 0, 2, USUAL.temperature, 0.05, info=WORDS("temperature_info"))
    with gr.Accordion(WORDS("more"), open=False, elem_id="more"):
        top_k = slider("top_k", 0, 100, USUAL.top_k, 1, info=WORDS("top_k_info"))
        top_p = slider("top_p", 0.05, 1, USUAL.top_p, 0.05, info=WORDS("top_p_info"))
        min_p = slider("min_p", 0, 0.95, USUAL.min_p, 0.05, info=WORDS("min_p_info"))
        seed = gr.Number(-1, precision=0, label=WORDS("seed"), info=WORDS("seed_info"), elem_id="seed")
    return Settings(model, length, temperature, top_k, top_p, min_p, seed)


def tell_tab(page: Page, shelf: Shelf, settings: Settings) -> gr.HTML:
    """Prompt, story, and what one does with a story; returns the story."""
    prompt = gr.Textbox(
        label=WORDS("prompt"),
        info=WORDS("prompt_info"),
        placeholder=WORDS("prompt_placeholder"),
        lines=1,  # with more, Enter would not submit; the box grows with the text
        max_lines=8,
        elem_id="prompt",
    )
    refusal = view("refusal")
    with gr.Row(elem_classes="chips"):
        examples = [gr.Button(text, size="sm", min_width=0) for text in shelf.prompts(shelf.best)]
    with gr.Row(elem_classes="buttons"):
        tell = gr.Button(WORDS("tell"), variant="primary", min_width=100, elem_id="tell")
        stop = gr.Button(WORDS("stop"), min_width=100, elem_classes="stop", elem_id="stop")
        clear = gr.Button(WORDS("clear"), min_width=100)
    story = view("story", elem_id="story")
    with gr.Row(elem_classes="buttons"):
        go_on, another, edit, copy, download = (
            gr.Button(WORDS(name), size="sm", min_width=80, elem_id=name)
            for name in ("go_on", "another", "edit", "copy", "download")
        )
    with gr.Accordion(WORDS("history"), open=False):
        shelf_of_stories = view("history", [])
        forget = gr.Button(WORDS("forget"), size="sm")

    # A telling begins when any other has ended, as by Stop. A browser runs the listeners of a button one after the
    # other, each to its end: so a story is no listener itself but follows the one that waits for that.
    shown = dict(outputs=[story, refusal], show_progress="minimal", show_progress_on=story, api_visibility="private")
    begin = dict(js="storyteller.begin", **HERE)
    told = gr.on([tell.click, prompt.submit], **begin).then(
        in_place(shelf.telling), [settings.model, prompt, *settings[1:]], api_name="tell_here", **shown, **TELLING
    )
    retold = another.click(**begin).then(
        in_place(shelf.telling),
        [settings.model, prompt, *settings[1:]],
        js="(...values) => [...values.slice(0, -1), -1]",  # another seed
        api_name="tell_another",
        **shown,
        **TELLING,
    )
    continued = go_on.click(**begin).then(
        in_place(shelf.go_on),
        [settings.model, story, story, *settings[1:]],
        js="storyteller.continuing",
        api_name="go_on",
        **shown,
        **TELLING,
    )
    gr.on([stop.click, clear.click], cancels=[told, retold, continued], **HERE)
    kept = dict(js="storyteller.keep", outputs=[story, shelf_of_stories], **HERE)
    for over in (told, retold, continued):
        over.then(**kept).then(js="storyteller.follow", **HERE)
    stop.click(**kept)
    clear.click(js="storyteller.clear", outputs=[prompt, story, refusal], **HERE)
    forget.click(js="storyteller.forget", outputs=shelf_of_stories, **HERE)
    shelf_of_stories.select(js="storyteller.recall", outputs=[story, prompt, *settings], **HERE)
    edit.click(js="storyteller.edit", inputs=prompt, outputs=[prompt, refusal], **HERE)
    copy.click(js="storyteller.copy", outputs=refusal, **HERE)
    download.click(js="storyteller.download", outputs=refusal, **HERE)
    for button in examples:
        button.click(js="text => text", inputs=button, outputs=prompt, **HERE)
    beginnings = json.dumps({name: shelf.prompts(name) for name in shelf.storytellers})
    settings.model.change(js=f"name => ({beginnings})[name]", inputs=settings.model, outputs=examples, **HERE)

    # A link is opened: its settings are put into place, and its story is told.
    linked = [prompt, *settings]
    page.load(js="() => [storyteller.shelf.read()]", outputs=shelf_of_stories, **HERE)
    page.load(js="storyteller.open", outputs=linked, **HERE).then(js="storyteller.tellLink", **HERE)
    return story


def look_tab(shelf: Shelf, settings: Settings, story: gr.HTML) -> None:
    """A text coloured by surprise; of each character, what else could have come; attention."""
    text = gr.Textbox(label=WORDS("look_text"), info=WORDS("look_info"), lines=3, max_lines=8, elem_id="text")
    with gr.Row(elem_classes="buttons"):
        look_story = gr.Button(WORDS("look_story"), elem_id="look_story")
        colour = gr.Button(WORDS("look_colour"), variant="primary")
    refusal = view("refusal")
    colours = view("colours", elem_id="colours")
    chances = view("chances", elem_id="chances")
    with gr.Accordion(WORDS("attention"), open=False):
        if HAS_TORCH:
            most_layers = max(it.config.layers * it.config.loops for it in shelf.storytellers.values())
            most_heads = max(it.config.heads for it in shelf.storytellers.values())
            gr.Markdown(WORDS("attention_info"))
            layer, head = (
                gr.Slider(1, max(most, 2), 1, step=1, label=WORDS(name), elem_id=name, buttons=[], visible=most > 1)
                for name, most in (("layer", most_layers), ("head", most_heads))
            )
            attend = gr.Button(WORDS("attention_show"), elem_id="attend")
            attention = view("attention")
            attend.click(
                in_place(shelf.attention),
                [settings.model, colours, colours, layer, head],
                [attention, refusal],
                js="storyteller.attending",
                api_name="attention_here",
                api_visibility="private",
                **LOOKING,
            )
            gr.on([colours.select, layer.change, head.change], js="storyteller.attendAgain", **HERE)
            colours.change(js="() => null", outputs=attention, **HERE)  # which was of another text
        else:
            gr.Markdown(WORDS("attention_none"))

    private = dict(show_progress="hidden", api_visibility="private", **LOOKING)
    look_story.click(js="storyteller.lastPart", outputs=text, **HERE).then(
        in_place(shelf.colours),
        [settings.model, text],
        [colours, refusal],
        js="storyteller.lookingAtStory",
        api_name="look_story",
        **private,
    )
    colour.click(in_place(shelf.colours), [settings.model, text], [colours, refusal], api_name="colour", **private)
    sampler = [settings.temperature, settings.top_k, settings.top_p, settings.min_p]
    colours.select(
        in_place(shelf.look),
        [settings.model, colours, colours, *sampler],
        [chances, refusal],
        js="storyteller.looking",
        api_name="look",
        trigger_mode="always_last",
        **private,
    )
    gr.on([control.change for control in sampler], js="storyteller.reselect", **HERE)
    colours.change(js="() => null", outputs=chances, **HERE)  # which were of another text


def compare_tab(shelf: Shelf, settings: Settings) -> None:
    """One prompt and one seed, every model side by side."""
    gr.Markdown(WORDS("compare_info"))
    if {"classic", "pocket"} <= shelf.storytellers.keys():
        gr.Markdown(WORDS("compare_recipes"))
    if len(shelf.storytellers) == 1:
        gr.Markdown(WORDS("compare_one"))
    prompt = gr.Textbox(
        shelf.prompts(shelf.best)[0],
        label=WORDS("compare_prompt"),
        info=WORDS("prompt_info"),
        max_lines=8,
        elem_id="compare_prompt",
    )
    refusal = view("refusal", fields={"prompt": "compare_prompt"})
    with gr.Row(elem_classes="buttons"):
        compare = gr.Button(WORDS("compare"), variant="primary")
        stop = gr.Button(WORDS("compare_stop"), elem_classes="stop", elem_id="compare_stop")
    models = {each["name"]: each for each in shelf.models()}
    stories = view("stories", models=[models[name] for name in shelf.side_by_side()])
    told = gr.on([compare.click, prompt.submit], **HERE).then(
        in_place(shelf.compare),
        [prompt, *settings[1:]],
        [stories, refusal],
        show_progress="minimal",
        show_progress_on=stories,
        api_name="compare",
        api_visibility="private",
        **COMPARING,
    )
    stop.click(cancels=told, **HERE)
    stop.click(js="storyteller.halt", outputs=stories, **HERE)


def training_tab(shelf: Shelf) -> None:
    """Curves, figures and commands, all from the artifacts."""
    gr.Markdown(WORDS("training_info"))
    scale = gr.Radio(
        [(WORDS("linear"), "linear"), (WORDS("log"), "log")], value="linear", label=WORDS("scale"), elem_id="scale"
    )
    runs = [{"name": name, "log": it.log, "metrics": it.metrics} for name, it in shelf.storytellers.items()]
    curves = view("training", "linear", runs=runs)
    scale.change(js="scale => scale", inputs=scale, outputs=curves, **HERE)


def endpoints(shelf: Shelf) -> None:
    """What programs may call: documented on the page, and tools over MCP."""
    gr.api(shelf.tell, api_name="tell", **TELLING)
    gr.api(shelf.score, api_name="score", **LOOKING)
    gr.api(shelf.next_characters, api_name="next_characters", **LOOKING)
    gr.api(shelf.models, api_name="models", **LOOKING)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve the page on GRADIO_SERVER_NAME and GRADIO_SERVER_PORT.")
    parser.add_argument(
        "--artifacts", type=Path, default=Path(__file__).parent / "artifacts", help="folder of models (%(default)s)"
    )
    artifacts = parser.parse_args(argv).artifacts.resolve()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Gradio's greeting has a picture in it, and not every locale
    register()
    trust_the_hub()
    shelf = Shelf(artifacts)
    for name, reason in shelf.skipped.items():
        print(f"skipped {name}: {reason}", flush=True)
    page = build(shelf)
    page.launch(
        prevent_thread_lock=True,
        theme=THEME,
        css_paths=STYLE,
        head=head(),
        i18n=WORDS,
        share=False,
        ssr_mode=False,
        mcp_server=True,
        strict_cors=True,
        enable_monitoring=False,
        run_history=False,
        state_session_capacity=SESSIONS,
        footer_links=["api"],  # its settings would load the page anew in mid-story, and record the screen
        app_kwargs={
            "middleware": [
                Middleware(Gate, page),
                Middleware(CalmStop),
                Middleware(EarlyStop, page),
                Middleware(NoFigures),
                Middleware(WholeDocument, page),
            ]
        },
    )
    serve_tools(page)
    end_stalled_connections(page.server)
    threading.Thread(target=shelf.warm_up, daemon=True).start()
    page.block_thread()


if __name__ == "__main__":
    main()
