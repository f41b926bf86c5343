"""The page: builds its tabs, its API and its server from the parts in page/; run it with `python app.py`."""

from __future__ import annotations

import os
import threading
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
# After each call Gradio tabulates all calls with pandas, for a dashboard that this page does not have: put that off.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: one thread per story
# The page asks only its own server, which no proxy of this machine can reach. Gradio's clients read this when imported.
os.environ["no_proxy"] = "*"

from page.address import TAKEN, check_environment, find_address

# Gradio would read these now, and end in a traceback where one is wrong: main() checks them.
ADDRESS = {name: os.environ.pop(name, "") for name in TAKEN}

import gradio as gr
from starlette.middleware import Middleware

from model.command import BAD_USE, Parser, path, run_command
from page.answers import Answers
from page.endpoints import PARAMETERS
from page.gradio_fixes import answer_tools_in_json, functions
from page.links import links
from page.models import Models
from page.request_checks import RequestChecks
from page.tabs import (
    compare_tab,
    look_tab,
    no_model,
    open_and_keep,
    settings_column,
    settings_switch,
    tab,
    tell_tab,
)
from page.theme import STYLE, THEME, head
from page.training import training_tab
from page.turns import trust_proxies
from page.words import ENGLISH, WORDS
from page.zerogpu import register

CALLS = 64  # that Gradio passes on at the same time: more than `page.turns` lets wait and run
SESSIONS = 100  # sessions whose form Gradio remembers, 0.1 MB each; this page needs none of it, so dropping one is safe


def build(models: Models) -> gr.Blocks:
    """Builds the page for the models of a folder, from top to bottom as it lies."""
    answers = Answers(models)
    with gr.Blocks(title=ENGLISH["title"], analytics_enabled=False) as page:
        gr.Markdown("# " + ENGLISH["title"] + "\n\n" + WORDS("subtitle"), elem_id="heading")
        if models.storytellers:
            settings_switch()
            with gr.Row():
                # Created before the tabs, which listen to it, but placed after them.
                with gr.Column(scale=2, min_width=260, elem_id="settings", render=False) as beside:
                    settings = settings_column(models)
                with gr.Column(scale=5, min_width=300), gr.Tabs(overflow_behavior="wrap") as tabs:
                    with tab("tell", WORDS("tell_tab")):
                        tell_tab(answers, settings)
                    with tab("look", WORDS("look_tab")):
                        look_tab(answers, settings)
                    with tab("compare", WORDS("compare_tab")):
                        compare_tab(answers, settings)
                    with tab("training", WORDS("training_tab")):
                        training_tab(models)
                beside.render()
            open_and_keep(page, tabs)
            for name in PARAMETERS:  # what programs may call: the page documents it, and MCP offers it as tools
                gr.api(getattr(answers.endpoints, name), api_name=name)
        else:
            no_model(models.folder.name)
        for label, troubles in (("skipped", models.skipped), ("slower", models.warnings)):
            if troubles:
                lines = "\n".join(f"{name}: {reason}" for name, reason in troubles.items())
                gr.Textbox(lines, label=WORDS(label), interactive=False, max_lines=8, elem_id=label)
        links(models.default)
    # `page.turns` decides who waits, and for how long. Direct calls would have no session, and so no listener.
    return page.queue(api_open=False, default_concurrency_limit=None, max_size=CALLS)


def launch(page: gr.Blocks, models: Models, host: str, port: int) -> None:
    """Starts the server, which answers from then on. Raises OSError."""
    _, address, _ = page.launch(
        quiet=True,  # else it offers a public link, which this page does not allow
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        theme=THEME,
        css_paths=STYLE,
        head=head(),
        i18n=WORDS,
        share=False,
        ssr_mode=False,
        mcp_server=True,
        strict_cors=True,
        run_history=False,
        state_session_capacity=SESSIONS,
        footer_links=["api"],  # Gradio's settings link would reload the page in mid-story, and record the screen
        max_threads=CALLS,
        app_kwargs={"middleware": [Middleware(RequestChecks, models.turns, functions(page))]},
    )
    print(f"The page is at {address}", flush=True)
    answer_tools_in_json(page)


def build_parser() -> Parser:
    parser = Parser(description="Serve the page on GRADIO_SERVER_NAME and GRADIO_SERVER_PORT.")
    here = Path(__file__).parent / "artifacts"
    parser.add_argument("--artifacts", type=path, default=here, help="folder of models (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    artifacts = parser.parse_args(argv).artifacts.resolve()
    try:
        check_environment()
        host, port = find_address(ADDRESS)
    except ValueError as error:
        parser.exit(BAD_USE, f"error: {error}\n")
    register()
    trust_proxies()
    models = Models(artifacts)
    for name, reason in models.skipped.items():
        print(f"skipped {name}: {reason}", flush=True)
    page = build(models)
    try:
        launch(page, models, host, port)
    except OSError as error:  # no room or no right to write, or another program was faster to take the port
        parser.exit(BAD_USE, f"error: the page cannot be served: {error}\n")
    threading.Thread(target=models.warm_up, daemon=True).start()
    page.block_thread()


if __name__ == "__main__":
    run_command(main)
