"""The page: lays out the controls and wires them to model/; run it with `python app.py`."""

from __future__ import annotations

import argparse
import html
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: one thread per story

import gradio as gr
from gradio.block_function import BlockFunction

from model import Sampling, Storyteller, find
from model.sampling import shown
from model.zerogpu import register

MAX_LENGTH = 4_000  # characters that one press of Tell or Continue writes
MAX_PROMPT = 4_000  # characters of a prompt
MAX_STORY = 40_000  # characters of a story that can still be continued
STORIES_AT_ONCE = 4  # told at the same time; they share the processor's cores
STORIES_WAITING = 32  # queued behind them; more are turned away
PIECE_SECONDS = 0.05  # an update of the page costs about a millisecond, so characters travel in groups

EXAMPLES = [
    "Once upon a time, there was a little robot who",
    "The dragon was afraid of the dark.",
    "Lily found a tiny door behind the big tree.",
    "One rainy day, Tom and his cat",
]
NO_MODEL = """# No storyteller yet
This page tells stories with a model from `{folder}`, and found none there that it can open.
Train one, which takes a few minutes on two processor cores, and start the page again:

    python -m train --preset pocket --max-minutes 10 --out artifacts/pocket
    python app.py
"""
THEME = gr.themes.Base(  # fonts of the system only: the page makes no request to anybody else
    primary_hue="teal",
    neutral_hue="stone",
    radius_size="lg",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    button_primary_text_color="white",
    body_text_color_subdued="*neutral_500",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    block_border_width="1px",
    block_shadow="none",
)
CSS = """
.gradio-container { max-width: 70rem !important; margin: 0 auto; }
#prompt textarea { font-size: 1.05rem; line-height: 1.5; min-height: 3.6rem; }
#examples { gap: 0.5rem; }
#examples button { flex: 0 1 auto; min-width: 0; padding: 0.35rem 0.8rem; border-radius: 999px; }
#examples button { font-weight: 400; text-align: left; }
#story textarea { font: 1.15rem/1.65 Georgia, "Liberation Serif", serif; max-width: 65ch; padding: 0; }
#about textarea { font-variant-numeric: tabular-nums; padding: 0; }
#story textarea, #about textarea { background: none; border: none; opacity: 1; }
#story textarea { -webkit-text-fill-color: var(--body-text-color); }
#about textarea { -webkit-text-fill-color: var(--body-text-color-subdued); }
.dark input[type="range"] { --neutral-200: var(--neutral-600); }
"""
# What was on its way when the story was stopped would undo a clearing: wait until Gradio shows that it is over.
CLEAR = """
async () => {
    for (let i = 0; i < 10; i++) {
        await new Promise(done => setTimeout(done, 100));
        if (!document.querySelector("#story [data-testid=status-tracker]:not(.hide)")) break;
    }
    return ["", "", ""];
}
"""


class Shelf:
    """The storytellers of a folder of artifacts, best first, why others were skipped, and why some are slow."""

    def __init__(self, folder: Path) -> None:
        found, skipped = find(folder)
        self.folder = folder
        self.storytellers = {storyteller.name: storyteller for storyteller in found}
        # Visitors read the reasons, and where the folder lies is no business of theirs.
        self.skipped = {name: reason.replace(f"{folder}{os.sep}", "") for name, reason in skipped.items()}
        warnings = {storyteller.name: storyteller.warning for storyteller in found if storyteller.warning}
        self.warnings = {name: reason.replace(f"{folder}{os.sep}", "") for name, reason in warnings.items()}

    def warm_up(self) -> None:
        """Reads every network and runs it once, so that no visitor waits for that."""
        for storyteller in self.storytellers.values():
            for _ in storyteller.tell("", Sampling(length=1)):
                pass

    def tell(
        self,
        model: str,
        prompt: str,
        length: int,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        seed: int,
    ) -> Iterator[tuple[str, str]]:
        """Tells a story that begins with the prompt.

        Args:
            model: Name of the model that tells.
            prompt: How the story begins, up to 4,000 characters; empty for a story from the start.
            length: Characters to write, 1 to 4,000; a story may end sooner.
            temperature: 0 always takes the likeliest character, 2 is wild.
            top_k: Only the k likeliest characters may come next; 0 for all.
            top_p: Only the likeliest characters that together reach this probability may come next; 1 for all.
            min_p: Only characters at least this probable, relative to the likeliest, may come next; 0 for all.
            seed: The same seed tells the same story; -1 draws one.

        Returns:
            The story so far with its prompt, and a line of figures: characters, characters per second, seed.
        """
        storyteller = self._storyteller(model)
        sampling = _sampling(length, temperature, top_k, top_p, min_p, seed)
        if not isinstance(prompt, str):
            raise _refusal(f"prompt must be text, not {type(prompt).__name__}")
        if len(prompt) > MAX_PROMPT:
            raise _refusal(f"prompt has {len(prompt):,} characters; the limit is {MAX_PROMPT:,}: shorten it")
        yield from _stream(storyteller, prompt, sampling)

    def go_on(
        self, model: str, story: str, length: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
    ) -> Iterator[tuple[str, str]]:
        """Continues the story that is shown; the parameters are those of `tell`."""
        storyteller = self._storyteller(model)
        sampling = _sampling(length, temperature, top_k, top_p, min_p, seed)
        if not isinstance(story, str):
            raise _refusal(f"story must be text, not {type(story).__name__}")
        if not story:
            raise _refusal("there is no story to continue yet: press Tell first")
        if len(story) > MAX_STORY:
            raise _refusal(f"the story has {len(story):,} characters; the limit is {MAX_STORY:,}: start a new one")
        yield from _stream(storyteller, story[-MAX_PROMPT:], sampling, shown=story)

    def _storyteller(self, name: str) -> Storyteller:
        if not isinstance(name, str) or name not in self.storytellers:
            raise _refusal(f"model must be one of {', '.join(self.storytellers)}")
        return self.storytellers[name]


class Page(gr.Blocks):
    """Blocks whose functions get the values as they were sent.

    Gradio's own checks, of components and of files among the values, answer `null` and log a traceback; those of
    `Shelf` name the limit.
    """

    async def preprocess_data(self, block_fn: BlockFunction, inputs: list, *_: object) -> list:
        if block_fn.fn is None:
            raise _refusal(f"/{block_fn.api_name} is a step of the page in the browser; call /tell")
        if len(inputs) != len(block_fn.inputs):
            raise _refusal(f"/{block_fn.api_name} takes {len(block_fn.inputs)} values, not {len(inputs)}")
        return inputs


def build(shelf: Shelf) -> Page:
    """The page for what stands on the shelf; it is served by `launch()`."""
    with Page(title="Storyteller", analytics_enabled=False) as page:
        if shelf.storytellers:
            _tell_page(shelf)
        else:
            gr.Markdown(NO_MODEL.format(folder=shelf.folder.name))
        for label, troubles in (
            ("Models that were skipped", shelf.skipped),
            ("Models that are slower than they could be", shelf.warnings),
        ):
            if troubles:
                lines = "\n".join(f"{name}: {reason}" for name, reason in troubles.items())
                gr.Textbox(lines, label=label, interactive=False, max_lines=8)
    # Direct calls would pass the queue by and with it the limit on stories told at once.
    return page.queue(max_size=STORIES_WAITING, api_open=False)


def _tell_page(shelf: Shelf) -> None:
    slider = partial(gr.Slider, buttons=[])
    best = next(iter(shelf.storytellers))
    names = [(f"{name} · {it.metrics['parameters'] / 1e6:.2f} M", name) for name, it in shelf.storytellers.items()]

    gr.Markdown("# Storyteller\nA small language model, trained from scratch, one character at a time.")
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            prompt = gr.Textbox(
                label="How does the story begin?",
                value="",
                placeholder="Once upon a time… (empty: the model begins by itself)",
                lines=1,  # with more, Enter would not submit; the box grows with the text
                max_lines=8,
                elem_id="prompt",
            )
            with gr.Row(elem_id="examples"):
                examples = [gr.Button(text, size="sm", min_width=0) for text in EXAMPLES]
            with gr.Row():
                tell = gr.Button("Tell", variant="primary", min_width=100)
                stop = gr.Button("Stop", min_width=100)
                go_on = gr.Button("Continue", min_width=100)
                clear = gr.Button("Clear", min_width=100)
            story = gr.Textbox(label="Story", lines=10, max_lines=24, interactive=False, elem_id="story")
            about = gr.Textbox(label="About this story", lines=1, max_lines=8, interactive=False, elem_id="about")
        with gr.Column(scale=2, min_width=260):
            model = gr.Dropdown(names, value=best, label="Model", info="best first, with its millions of parameters")
            length = slider(1, MAX_LENGTH, 600, step=1, label="Length, in characters")
            temperature = slider(0, 2, 0.8, step=0.05, label="Temperature", info="0 is cautious, 2 is wild")
            with gr.Accordion("More settings", open=False):
                top_k = slider(0, 100, 0, step=1, label="Top-k", info="how many characters may come next; 0 for all")
                top_p = slider(0.05, 1, 1, step=0.05, label="Top-p", info="how much probability they share; 1 for all")
                min_p = slider(0, 0.95, 0, step=0.05, label="Min-p", info="how likely next to the likeliest; 0 for all")
                seed = gr.Number(-1, precision=0, label="Seed", info="the same seed tells the same story; -1 draws one")

    settings = [length, temperature, top_k, top_p, min_p, seed]
    telling = dict(
        outputs=[story, about],
        show_progress="minimal",
        show_progress_on=story,
        concurrency_limit=STORIES_AT_ONCE,
        concurrency_id="stories",
    )
    # Tell ends a continuation, Continue ends a telling. A browser runs the listeners of a button one after the other,
    # each to its end: so a story is no listener itself but follows one that does nothing.
    here = dict(fn=None, queue=False, api_visibility="private")  # in the browser, without the server
    told = gr.on([tell.click, prompt.submit], **here).then(
        shelf.tell, [model, prompt, *settings], api_name="tell", **telling
    )
    continued = go_on.click(cancels=told, **here).then(
        shelf.go_on, [model, story, *settings], api_visibility="private", **telling
    )
    gr.on([tell.click, prompt.submit], cancels=continued, **here)
    gr.on([stop.click, clear.click], cancels=[told, continued], **here)
    clear.click(js=CLEAR, outputs=[prompt, story, about], **here)
    for button in examples:
        button.click(js="text => text", inputs=button, outputs=prompt, **here)


def _stream(
    storyteller: Storyteller, prompt: str, sampling: Sampling, *, shown: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yields the story so far and the lines about it, at most every `PIECE_SECONDS`.

    The story begins with `shown`; None stands for what the model knows of the prompt.
    """
    started = time.monotonic()
    read = storyteller.prepare(prompt)
    notes = []
    if read.dropped:
        named = " ".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in read.dropped)
        notes.append(f"Dropped, because this model does not know them: {named}")
    if read.cut:
        kept = len(read.text) - read.cut
        notes.append(f"The text so far is longer than this model's context: it read the last {kept:,} characters.")
    story, written = read.text if shown is None else shown, 0

    def update() -> tuple[str, str]:
        speed = written / max(time.monotonic() - started, 1e-3)
        figures = f"{written:,} characters · {speed:,.0f} characters/s · seed {sampling.seed}"
        return story, "\n".join([figures, *notes])

    with closing(storyteller.tell(prompt, sampling)) as characters:
        for piece in _grouped(characters):
            story, written = story + piece, written + len(piece)
            yield update()
    if written < sampling.length:
        notes.insert(0, "The model ended the story here.")
    yield update()


def _grouped(characters: Iterator[str]) -> Iterator[str]:
    """Joins characters that come within `PIECE_SECONDS` of each other; the first leaves at once."""
    piece, due = "", 0.0
    for character in characters:
        piece += character
        if time.monotonic() >= due:
            yield piece
            piece, due = "", time.monotonic() + PIECE_SECONDS
    if piece:
        yield piece


def _sampling(length: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int | None) -> Sampling:
    """The settings, which may be anything that JSON can say, checked; a seed is drawn where none is given."""
    length = _whole(length)
    if type(length) is not int or not 1 <= length <= MAX_LENGTH:
        raise _refusal(f"length ({shown(length)}) must be a whole number from 1 to {MAX_LENGTH:,}")
    try:
        return Sampling(
            length=length,
            temperature=temperature,
            top_k=_whole(top_k),
            top_p=top_p,
            min_p=min_p,
            seed=None if seed is None or seed == -1 else _whole(seed),
        ).seeded()
    except ValueError as error:
        raise _refusal(str(error)) from None


def _whole(value: object) -> object:
    """A browser has one kind of number: 600.0 is 600."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refusal(message: str) -> gr.Error:
    """A line for the visitor alone: text, though Gradio would take HTML, and absent from the log."""
    return gr.Error(html.escape(message, quote=False), print_exception=False)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve the page on GRADIO_SERVER_NAME and GRADIO_SERVER_PORT.")
    parser.add_argument(
        "--artifacts", type=Path, default=Path(__file__).parent / "artifacts", help="folder of models (%(default)s)"
    )
    artifacts = parser.parse_args(argv).artifacts.resolve()
    register()
    shelf = Shelf(artifacts)
    for name, reason in shelf.skipped.items():
        print(f"skipped {name}: {reason}", flush=True)
    page = build(shelf)
    page.launch(
        prevent_thread_lock=True,
        theme=THEME,
        css=CSS,
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=["api", "settings"],
    )
    threading.Thread(target=shelf.warm_up, daemon=True).start()
    page.block_thread()


if __name__ == "__main__":
    main()
