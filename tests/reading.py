"""Helpers for the tests of the page in Chromium: a visitor's page, with its parts found by role and label."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from serving import CHROMIUM_FLAGS, CHROMIUM_MISSING, find_chromium

SIZES = {"desktop": (1280, 800), "phone": (360, 740)}
MARKUP = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script> *a* [b](c) ${1+1} `d`"


@dataclass
class Reader:
    """A visitor's page, its parts by their labels, and the errors that occurred in it."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def open(self, url: str, link: str = "") -> Reader:
        host = f"{url}/"
        outside = self.troubles.append
        self.page.on("request", lambda it: it.url.startswith((host, "data:", "blob:")) or outside(f"asked {it.url}"))
        self.page.on("response", lambda it: it.status >= 400 and self.troubles.append(f"{it.status} {it.url}"))
        self.page.on("console", lambda it: it.type in ("error", "warning") and self.troubles.append(it.text))
        self.page.on("pageerror", lambda it: self.troubles.append(str(it)))
        self.page.goto(host + link)
        expect(self.page.get_by_role("heading", level=1)).to_be_visible()
        return self

    @property
    def prompt(self) -> Locator:
        return self.page.get_by_role("textbox", name="How does the story begin?")

    @property
    def story(self) -> Locator:
        return self.page.get_by_role("article", name="Story", exact=True)

    @property
    def about(self) -> Locator:
        return self.page.get_by_role("group", name="About this story")

    @property
    def alert(self) -> Locator:
        return self.page.get_by_role("alert").filter(has_text=re.compile("."))

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def press(self, button: str) -> None:
        self.button(button).click()

    def show_settings(self) -> None:
        """Opens the settings, which a phone hides."""
        if self.page.viewport_size["width"] < 640:
            self.page.locator("#settings_switch input").check()  # waits for the page, which may still be loading

    def fill(self, box: Locator, value: object) -> None:
        """Waits, then fills a field: Gradio creates it when its part of the page opens, and sets it a moment later."""
        expect(box).to_be_visible()
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box.fill(str(value))

    def set(self, label: str, value: object) -> None:
        self.show_settings()
        box = self.page.get_by_role("spinbutton", name=f"number input for {label}")
        self.fill(box, value)
        box.press("Tab")

    def set_seed(self, seed: int) -> None:
        self.show_settings()
        self.press("More settings ▼")
        field = self.page.get_by_label("Seed")
        self.fill(field, seed)
        field.press("Tab")

    def one_draft(self) -> None:
        """Chooses one draft and one beam, so that a story comes character by character and fills its length."""
        self.set("Drafts", 1)
        self.press("More settings ▼")
        self.set("Beams", 1)

    def choose(self, model: str) -> None:
        self.show_settings()
        self.page.get_by_role("combobox", name="Model").click()
        self.page.get_by_role("option", name=re.compile(rf"^{model} ")).click()

    def enter(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()

    def wait_for_longer(self, than: str) -> str:
        """Waits until the story is longer than `than`, with which it must begin; returns the story."""
        expect(self.story).to_have_text(re.compile(rf"^{re.escape(than)}.+", re.DOTALL))
        return self.story.text_content()

    def wait_until_told(self) -> str:
        """Waits until the story is over and the address bar has its link; returns the story."""
        here = "typeof storyteller !== 'undefined' && storyteller.current"  # undefined while the page is loading
        over = f"{here} && !storyteller.current.running && location.hash.includes('seed=')"
        self.page.wait_for_function(over)
        return self.story.text_content()


@contextmanager
def chromium() -> Iterator[Browser]:
    path = find_chromium()
    if path is None and os.environ.get("REQUIRE_BROWSER") != "1":
        pytest.skip(CHROMIUM_MISSING)
    if path is None:
        pytest.fail(CHROMIUM_MISSING)
    expect.set_options(timeout=5_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(
    browser: Browser, url: str, link: str = "", size: str = "desktop", script: str = "", **settings: object
) -> Iterator[Reader]:
    """A new visitor, whose console must stay empty and whose page must not scroll sideways.

    The `script` runs before those of the page: it can be a browser that is not like this one.
    """
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, **settings)
    context.set_default_timeout(5_000)
    context.add_init_script(script)
    reader = Reader(context.new_page()).open(url, link)
    yield reader
    # while the page is being laid out, it may be wider
    reader.page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
    assert reader.troubles == []
    context.close()
