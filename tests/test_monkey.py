"""A seeded monkey presses, types and drags for MONKEY_SECONDS in all: no error in the console, none in the log."""

from __future__ import annotations

import os
import random
import time

import pytest
from playwright.sync_api import Error, expect
from reading import MARKUP, SIZES, chromium, visit
from serving import ROOT, serve

SECONDS = float(os.environ.get("MONKEY_SECONDS", "60")) / len(SIZES)
KEYS = ("Enter", "Escape", "Tab", "ArrowRight", "ArrowDown", "Shift+Enter", "Backspace")
TEXTS = ("", "Once upon a time", "Tom ☃ saw\n7 cats", MARKUP, "a" * 4100)
# What was drawn went away meanwhile, or something lies over it.
GONE = ("Timeout", "not attached", "not visible", "Malformed")
# Svelte about Gradio's own panel "Use via API", where it is closed while it waits for what it shows.
CLOSED_EARLY = "https://svelte.dev/e/derived_inert"
# What a visitor can act on, apart from links that lead away.
TARGETS = "button, [role=tab], [role=option], [role=combobox], textarea, input"
# The first of them from a place on that can be scrolled to, has nothing lie over it, and takes what one writes.
# There may be none: a dialog has just opened over them. A coloured text has thousands, which stay in the page.
CHOOSE = """([targets, place]) => {
  const all = [...document.querySelectorAll(targets)];
  const start = Math.floor(place * all.length);
  return [...all.slice(start), ...all.slice(0, start)].find((it) => {
    it.scrollIntoView({ block: "center" });
    const { left, top, width, height } = it.getBoundingClientRect();
    const above = document.elementFromPoint(left + width / 2, top + height / 2);
    return width > 0 && it.contains(above) && !it.matches(":disabled, [readonly]");
  });
}"""


def act(page, draw: random.Random) -> None:
    """Does one thing to one thing that is there."""
    target = page.evaluate_handle(CHOOSE, [TARGETS, draw.random()]).as_element()
    if target is None or draw.random() < 0.2:
        page.keyboard.press(draw.choice(KEYS))
        return
    kind = target.evaluate("it => it.tagName === 'INPUT' ? it.type : it.tagName.toLowerCase()")
    if kind == "textarea":
        target.fill(draw.choice(TEXTS), timeout=1000)
    elif kind == "range":
        target.fill(
            str(draw.uniform(float(target.get_attribute("min")), float(target.get_attribute("max")))), timeout=1000
        )
    elif kind == "number":
        target.fill(str(draw.choice([-5, 0, 1, 7, 60, 10**6])), timeout=1000)
    else:
        target.click(timeout=1000)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_breaks_under_a_monkey(tmp_path, size):
    draw = random.Random(int(os.environ.get("MONKEY_SEED", "1")))
    with (
        serve(tmp_path, ROOT / "artifacts", torch=False) as server,
        chromium() as browser,
        visit(browser, server.url, size=size) as reader,
    ):
        done, until = 0, time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                act(reader.page, draw)
                done += 1
            except Error as error:
                assert any(text in str(error) for text in GONE), error
            assert set(reader.troubles) <= {CLOSED_EARLY}, f"after {done} actions"
        assert done > SECONDS / 2
        reader.page.goto("about:blank")
        reader.troubles.clear()  # whoever leaves in the midst of an answer aborts it
        reader.page.goto(server.url)
        reader.prompt.fill("Tom")
        reader.press("Tell")
        reader.wait_for_longer("Tom")
        assert server.complaints() == []
        expect(reader.alert).to_have_count(0)
        print(f"{done} actions")
