"""Seeded random clicks, typing and dragging for MONKEY_SECONDS in all: no error in the console or in the log."""

from __future__ import annotations

import os
import random
import time

import pytest
from playwright.sync_api import Error, expect
from reading import MARKUP, SIZES, chromium, visit
from serving import ROOT, serve

SECONDS = float(os.environ.get("MONKEY_SECONDS", "30")) / len(SIZES)
KEYS = ("Enter", "Escape", "Tab", "ArrowRight", "ArrowDown", "Shift+Enter", "Backspace")
TEXTS = ("", "Once upon a time", "Tom ☃ saw\n7 cats", MARKUP, "a" * 4100)
# The element has disappeared meanwhile, or another element covers it.
GONE = ("Timeout", "not attached", "not visible", "Malformed")
# A warning of Svelte when Gradio's panel "Use via API" is closed while it still loads.
CLOSED_EARLY = "https://svelte.dev/e/derived_inert"
# The elements that a visitor can use, without links to other pages.
TARGETS = "button, [role=tab], [role=option], [role=combobox], textarea, input"
# The first of them, from a given place on, that can be scrolled to, is not covered, and can be written to. There may be
# none, when a dialog has just opened over them. This runs in the page, because a coloured text has thousands of them.
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
    """Does one random action on one random element."""
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
def test_random_actions_break_nothing(tmp_path, size):
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
        reader.troubles.clear()  # leaving the page in the midst of an answer aborts it
        reader.page.goto(server.url)
        reader.enter("Tell")  # the tab that was open is open again
        reader.prompt.fill("Tom")
        reader.press("Tell")
        reader.wait_for_longer("Tom")
        assert server.complaints() == []
        expect(reader.alert).to_have_count(0)
        print(f"{done} actions")
