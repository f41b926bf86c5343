"""The layout of the tabs and of the settings beside them, and what each control does."""

from __future__ import annotations

import json

import gradio as gr

from model.sampling import SETTINGS, USUAL
from page.answers import Answers
from page.gradio_fixes import parts
from page.limits import MAX_LENGTH, in_place
from page.models import HAS_TORCH, Models
from page.theme import view
from page.words import WORDS

HERE = dict(fn=None, queue=False, api_visibility="private")  # runs in the browser, without the server
ASKED = dict(api_visibility="private", preprocess=False)  # asks the server, where `page.limits` checks the values
# What a reload must not lose, by elem_id; `page/visit.js` checks the values.
KEPT = {"prompt", "story", "history", "text", "colours", "layer", "head", "compare_prompt", "stories"}


def tab(name: str, label: str) -> gr.Tab:
    """A tab of the page, to be filled."""
    made = gr.Tab(label, id=name)
    made.select(js=f"() => storyteller.enter('{name}')", **HERE)
    return made


def settings_switch() -> None:
    """What shows and hides the settings on a phone, which has no room for them beside the tabs."""
    with gr.Column(elem_id="settings_switch"):
        shown = gr.Checkbox(label=WORDS("settings"), container=False)
    shown.input(js="storyteller.enterSettings", inputs=shown, **HERE)


def settings_column(models: Models) -> dict[str, gr.components.Component]:
    """The controls beside the tabs, by name, in the order of /tell."""

    def label(name: str) -> str:
        isolated = (
            name if name.isascii() else f"\u2068{name}\u2069"
        )  # else one from right to left turns the number around
        return f"{isolated} · {models.storytellers[name].metrics['parameters'] / 1e6:.2f} M"

    names = [(label(name), name) for name in models.storytellers]
    made = {}

    def slider(name: str, least: float, most: float, step: float, info: str | None = None) -> None:
        words = dict(label=WORDS(name), info=info and WORDS(info))
        made[name] = gr.Slider(least, most, getattr(USUAL, name), step=step, elem_id=name, buttons=[], **words)

    made["model"] = gr.Dropdown(
        names, value=models.default, label=WORDS("model"), info=WORDS("model_info"), elem_id="model"
    )
    slider("length", 1, MAX_LENGTH, 1)
    slider("temperature", 0, 2, 0.05, "temperature_info")
    slider("drafts", 1, 16, 1, "drafts_info")
    with gr.Accordion(WORDS("more"), open=False, elem_id="more"):
        slider("beams", 1, 4, 1, "beams_info")
        slider("top_k", 0, 100, 1, "top_k_info")
        slider("top_p", 0.05, 1, 0.05, "top_p_info")
        slider("min_p", 0, 0.95, 0.01, "min_p_info")
        made["seed"] = gr.Number(-1, precision=0, label=WORDS("seed"), info=WORDS("seed_info"), elem_id="seed")
    return {name: made[name] for name in ("model", *SETTINGS)}


def tell_tab(answers: Answers, settings: dict) -> None:
    """The prompt, the story and the buttons for it."""
    models = answers.models
    prompt = gr.Textbox(
        label=WORDS("prompt"),
        info=WORDS("prompt_info"),
        placeholder=WORDS("prompt_placeholder"),
        lines=1,  # with more, Enter would not submit; the box grows with the text
        max_lines=8,
        elem_id="prompt",
    )
    refusal = view("refusal")
    examples(models, prompt, settings["model"])
    with gr.Row(elem_classes="buttons"):
        tell = gr.Button(WORDS("tell"), variant="primary", min_width=100, elem_id="tell")
        stop = gr.Button(WORDS("stop"), min_width=100, elem_classes="stop", elem_id="stop")
        clear = gr.Button(WORDS("clear"), min_width=100)
    story = view("story", elem_id="story")
    with gr.Row(elem_classes="buttons"):
        go_on, another, edit, copy, download = (
            gr.Button(WORDS(name), size="sm", min_width=80, elem_id=name, interactive=name == "another")
            for name in ("go_on", "another", "edit", "copy", "download")  # a story makes the others active
        )
    with gr.Accordion(WORDS("history"), open=False):
        history = view("history", [], elem_id="history")
        forget = gr.Button(WORDS("forget"), size="sm")

    # A story begins only when any other has ended, for example by Stop. A browser runs the listeners of a button one
    # after the other, each to its end. So the listener only waits for that end, and the story follows it with `then`.
    begin = dict(js="storyteller.begin", **HERE)
    shown = dict(outputs=[story, refusal], show_progress="minimal", show_progress_on=story, **ASKED)
    over = dict(js="storyteller.over", outputs=[story, history], **HERE)
    model, *how = settings.values()
    tellings = [
        gr.on([tell.click, prompt.submit], **begin).then(
            in_place(models.telling), [model, prompt, *how], api_name="tell_here", **shown
        ),
        another.click(**begin).then(
            in_place(models.telling), [model, prompt, *how], js="storyteller.another", api_name="tell_another", **shown
        ),
        go_on.click(**begin).then(
            in_place(answers.go_on),
            [model, story, story, *how],
            js="storyteller.continuing",
            api_name="go_on",
            **shown,
        ),
    ]
    for told in tellings:
        told.then(**over).then(js="storyteller.follow", **HERE)
        told.failure(**over)
    stop.click(answers.stop, js="storyteller.heard", **ASKED)
    clear.click(js="storyteller.clear", outputs=[prompt, story, refusal], **HERE)
    forget.click(js="storyteller.forget", outputs=history, **HERE)
    history.select(js="storyteller.recall", outputs=[story, prompt, model, *how], **HERE)
    edit.click(js="storyteller.edit", outputs=[prompt, refusal], **HERE)
    copy.click(js="storyteller.copy", outputs=refusal, **HERE)
    download.click(js="storyteller.download", outputs=refusal, **HERE)


def examples(models: Models, prompt: gr.Textbox, model: gr.Dropdown) -> None:
    """The prompts that suit the chosen model. A click tells a story from the prompt itself, not its translation."""
    prompts = {name: [[prompt] for prompt in models.prompts(name)] for name in models.storytellers}
    chips = gr.Dataset(components=[prompt], samples=prompts[models.default], show_label=False, elem_classes="chips")
    of_model = f"const all = {json.dumps(prompts)}[model]"
    chosen = f"(index, model) => {{ {of_model}; return all[index][0]; }}"
    offered = f"model => {{ {of_model}; return {{ __type__: 'update', samples: all }}; }}"
    chips.click(js=chosen, inputs=[chips, model], outputs=prompt, **HERE).then(
        js="() => document.querySelector('#tell').click()", **HERE
    )
    model.change(js=offered, inputs=model, outputs=chips, **HERE)


def look_tab(answers: Answers, settings: dict) -> None:
    """A text coloured by surprise, the alternatives at each character, and attention."""
    text = gr.Textbox(label=WORDS("look_text"), info=WORDS("look_info"), lines=3, max_lines=8, elem_id="text")
    with gr.Row(elem_classes="buttons"):
        look_story = gr.Button(WORDS("look_story"), elem_id="look_story")
        colour = gr.Button(WORDS("look_colour"), variant="primary")
    refusal = view("refusal")
    colours = view("colours", elem_id="colours")
    chances = view("chances", elem_id="chances")
    if HAS_TORCH:
        attention_part(answers, settings, colours, refusal)

    private = dict(show_progress="hidden", **ASKED)
    look_story.click(js="storyteller.lastPart", outputs=text, **HERE).then(
        in_place(answers.colours),
        [settings["model"], text],
        [colours, refusal],
        js="storyteller.lookingAtStory",
        api_name="look_story",
        **private,
    )
    colour.click(in_place(answers.colours), [settings["model"], text], [colours, refusal], api_name="colour", **private)
    sampler = [settings[name] for name in ("temperature", "top_k", "top_p", "min_p")]
    colours.select(
        in_place(answers.look),
        [settings["model"], colours, colours, *sampler],
        [chances, refusal],
        js="storyteller.looking",
        api_name="look",
        trigger_mode="always_last",
        **private,
    )
    gr.on([control.change for control in sampler], js="storyteller.reselect", **HERE)
    colours.change(js="() => null", outputs=chances, **HERE)  # they belonged to another text


def attention_part(answers: Answers, settings: dict, colours: gr.HTML, refusal: gr.HTML) -> None:
    """Where one head of the network looks; it needs PyTorch."""
    with gr.Accordion(WORDS("attention"), open=False):
        most_layers = max(it.config.layers * it.config.loops for it in answers.models.storytellers.values())
        most_heads = max(it.config.heads for it in answers.models.storytellers.values())
        gr.Markdown(WORDS("attention_info"))
        layer, head = (
            gr.Slider(1, max(most, 2), 1, step=1, label=WORDS(name), elem_id=name, buttons=[], visible=most > 1)
            for name, most in (("layer", most_layers), ("head", most_heads))
        )
        attend = gr.Button(WORDS("attention_show"), elem_id="attend")
        attention = view("attention")
        attend.click(
            in_place(answers.attention),
            [settings["model"], colours, colours, layer, head],
            [attention, refusal],
            js="storyteller.attending",
            api_name="attention_here",
            **ASKED,
        )
        gr.on([colours.select, layer.change, head.change], js="storyteller.attendAgain", **HERE)
        colours.change(js="() => null", outputs=attention, **HERE)  # it belonged to another text


def compare_tab(answers: Answers, settings: dict) -> None:
    """One prompt and one seed, told by every model side by side."""
    models = answers.models
    gr.Markdown(WORDS("compare_info"))
    if {"classic", "pocket"} <= models.storytellers.keys():
        gr.Markdown(WORDS("compare_recipes"))
    if len(models.storytellers) == 1:
        gr.Markdown(WORDS("compare_one"))
    prompt = gr.Textbox(
        models.example(models.default),
        label=WORDS("compare_prompt"),
        info=WORDS("prompt_info"),
        max_lines=8,
        elem_id="compare_prompt",
    )
    refusal = view("refusal", fields={"prompt": "compare_prompt"})
    with gr.Row(elem_classes="buttons"):
        compare = gr.Button(WORDS("compare"), variant="primary")
        stop = gr.Button(WORDS("compare_stop"), elem_classes="stop", elem_id="compare_stop")
    described = {each["name"]: each for each in answers.endpoints.models()}
    stories = view("stories", models=[described[name] for name in models.side_by_side()], elem_id="stories")
    gr.on([compare.click, prompt.submit], **HERE).then(
        in_place(answers.compare),
        [prompt, *(settings[name] for name in SETTINGS)],
        [stories, refusal],
        show_progress="minimal",
        show_progress_on=stories,
        api_name="compare",
        **ASKED,
    )
    stop.click(answers.stop_comparing, **ASKED)


def no_model(folder: str) -> None:
    """What stands in place of the tabs: how to train a model into the folder of this name."""
    train = f'make train ARGS="--preset pocket --max-minutes 10 --out {folder}/pocket"'
    serve = "make app" if folder == "artifacts" else f'make app ARGS="--artifacts {folder}"'
    gr.Markdown("## " + WORDS("none"))
    gr.Markdown(WORDS("none_text") + f"\n```\n{train}\n{serve}\n```")


def open_and_keep(page: gr.Blocks, tabs: gr.Tabs) -> None:
    """Opens the page with a link's story, or with what the visitor had before a reload. Keeps what changes."""
    kept = parts(page, KEPT | {"model", *SETTINGS})
    history = kept.pop("history")
    for name, part in kept.items():
        part.change(js=f"value => storyteller.remember('{name}', value)", inputs=part, **HERE)
    opened = page.load(js=f"() => storyteller.open({list(kept)})", outputs=[*kept.values(), tabs, history], **HERE)
    opened.then(js="storyteller.tellLink", **HERE)
