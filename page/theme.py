"""The page's theme, style sheet and scripts. Its fonts are system fonts, so the browser fetches nothing."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from page.limits import MAX_TEXT

HERE = Path(__file__).parent
STYLE = HERE / "style.css"
SCRIPTS = [HERE / name for name in ("base.js", "visit.js", "story.js", "views.js", "training.js")]

THEME = gr.themes.Base(  # system fonts only: the page sends no request to another site
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
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    block_border_width="1px",
    block_shadow="none",
    layout_gap="clamp(0.6rem, 2vw, 1rem)",
)


def head() -> str:
    """The scripts, for the HTML head of the page."""
    scripts = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    return f"<script>\n{scripts}storyteller.limit = {MAX_TEXT};\n</script>"


def view(name: str, value: object = None, **settings: object) -> gr.HTML:
    """A part of the page that the script `storyteller.views[name]` draws from a value.

    The template stays empty, because Gradio would read values in it as HTML and even as code. The scripts write text as
    text.
    """
    script = f"storyteller.views.{name}(element, props, watch, trigger)"
    return gr.HTML(value, html_template="<div></div>", js_on_load=script, apply_default_css=False, **settings)
