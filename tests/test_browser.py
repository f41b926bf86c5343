"""The page in a real Chromium, by role and label, as a reader meets it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from serving import CHROMIUM_FLAGS, CHROMIUM_MISSING, find_chromium, save_tiny, serve

if find_chromium() is None and os.environ.get("REQUIRE_BROWSER") != "1":
    pytest.skip(CHROMIUM_MISSING, allow_module_level=True)

SIZES = {"desktop": (1280, 800), "phone": (360, 740)}
NAMELESS = re.compile(r"^\s*- (textbox|slider|spinbutton|combobox|button)(?! \")", re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("browser")
    save_tiny(home / "artifacts" / "endless", nats=2.0, ends=False)
    save_tiny(home / "artifacts" / "ending", nats=1.0, ends=True)
    with serve(home, home / "artifacts") as server:
        yield server
        assert server.complaints() == []


@pytest.fixture(scope="module")
def browser():
    path = find_chromium()
    if path is None:
        pytest.fail(CHROMIUM_MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class Reader:
    """A visitor's page, its parts by their labels, and what went wrong in it."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        host = f"{url}/"
        outside = self.troubles.append
        self.page.on("request", lambda it: it.url.startswith((host, "data:", "blob:")) or outside(f"asked {it.url}"))
        self.page.on("console", lambda it: it.type in ("error", "warning") and self.troubles.append(it.text))
        self.page.on("pageerror", lambda it: self.troubles.append(str(it)))
        self.page.goto(host)
        expect(self.prompt).to_be_visible()

    @property
    def prompt(self):
        return self.page.get_by_role("textbox", name="How does the story begin?")

    @property
    def story(self):
        return self.page.get_by_role("textbox", name="Story", exact=True)

    @property
    def about(self):
        return self.page.get_by_role("textbox", name="About this story")

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def set(self, label: str, value: object) -> None:
        box = self.page.get_by_role("spinbutton", name=f"number input for {label}")
        box.fill(str(value))
        box.press("Tab")

    def choose(self, model: str) -> None:
        self.page.get_by_role("combobox", name="Model").click()
        self.page.get_by_role("option", name=re.compile(rf"^{model} ")).click()

    def wait_for_longer(self, than: str) -> str:
        """The story once it is longer than `than`, which it must begin with."""
        expect(self.story).to_have_value(re.compile(rf"^{re.escape(than)}.+", re.DOTALL))
        return self.story.input_value()


@pytest.fixture(params=[("desktop", "light"), ("phone", "dark")], ids="-".join)
def reader(browser, server, request):
    """A fresh visitor in each size, whose console must stay clean."""
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(10_000)
    reader = Reader(context.new_page())
    reader.open(server.url)
    yield reader
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
    assert reader.troubles == []
    context.close()


def test_tell_stop_continue_clear(reader):
    reader.choose("endless")
    reader.set("Length, in characters", 4000)
    reader.prompt.fill("Once upon a time")
    reader.prompt.press("Enter")
    begun = reader.wait_for_longer("Once upon a time")
    reader.wait_for_longer(begun)
    expect(reader.about).to_have_value(re.compile(r"^[\d,]+ characters · [\d,]+ characters/s · seed \d+$"))

    reader.press("Stop")
    reader.page.wait_for_timeout(300)
    stopped = reader.story.input_value()
    assert len(stopped) < 4000
    reader.page.wait_for_timeout(300)
    assert reader.story.input_value() == stopped

    reader.press("Continue")
    reader.wait_for_longer(stopped)
    reader.press("Clear")
    for box in (reader.prompt, reader.story, reader.about):
        expect(box).to_have_value("")
    reader.page.wait_for_timeout(300)
    expect(reader.story).to_have_value("")


def test_every_control_has_a_name(reader):
    reader.press("More settings ▼")
    expect(reader.page.get_by_label("Seed")).to_be_visible()
    assert NAMELESS.findall(reader.page.locator("body").aria_snapshot()) == []


@pytest.fixture
def desktop(browser, server):
    context = browser.new_context()
    context.set_default_timeout(10_000)
    reader = Reader(context.new_page())
    reader.open(server.url)
    yield reader
    context.close()


def test_shift_enter_breaks_the_line(desktop):
    desktop.prompt.fill("Tom ran.")
    desktop.prompt.press("Shift+Enter")
    desktop.prompt.press_sequentially("Ann")
    expect(desktop.prompt).to_have_value("Tom ran.\nAnn")
    expect(desktop.story).to_have_value("")


def test_an_example_fills_the_prompt_and_a_new_telling_replaces_the_old(desktop):
    desktop.choose("endless")
    desktop.press("The dragon was afraid of the dark.")
    expect(desktop.prompt).to_have_value("The dragon was afraid of the dark.")
    desktop.press("Tell")
    desktop.wait_for_longer("The dragon was afraid of the dark.")
    expect(desktop.about).to_have_value(re.compile("^600 characters"))
    desktop.prompt.fill("A cat")
    desktop.press("Tell")
    desktop.wait_for_longer("A cat")


def test_tell_takes_over_from_continue_and_back(desktop):
    desktop.choose("endless")
    desktop.set("Length, in characters", 4000)
    desktop.prompt.fill("A cat")
    desktop.press("Tell")
    told = desktop.wait_for_longer("A cat")
    seed = desktop.about.input_value().splitlines()[0].split()[-1]
    desktop.press("Continue")
    expect(desktop.about).not_to_have_value(re.compile(f"seed {seed}"))
    desktop.wait_for_longer(told)
    desktop.prompt.fill("A dog")
    desktop.press("Tell")
    desktop.wait_for_longer(desktop.wait_for_longer("A dog"))


def test_the_same_seed_shows_the_same_story(desktop):
    desktop.press("More settings ▼")
    desktop.page.get_by_label("Seed").fill("11")
    stories = []
    for _ in range(2):
        desktop.press("Tell")
        expect(desktop.about).to_have_value(re.compile("seed 11\nThe model ended the story here."))
        stories.append(desktop.story.input_value())
        desktop.press("Clear")
        expect(desktop.about).to_have_value("")
    assert stories[0] == stories[1] != ""


def test_markup_is_text(desktop):
    markup = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script> *a* [b](c)"
    desktop.prompt.fill(markup)
    desktop.press("Tell")
    assert desktop.wait_for_longer(markup)
    assert desktop.page.title() == "Storyteller"


def test_a_refusal_is_shown(desktop):
    desktop.prompt.fill("a" * 4001)
    desktop.press("Tell")
    refusal = desktop.page.get_by_text("prompt has 4,001 characters; the limit is 4,000: shorten it")
    expect(refusal).to_be_visible()
    desktop.press("Continue")
    expect(desktop.page.get_by_text("there is no story to continue yet: press Tell first")).to_be_visible()
