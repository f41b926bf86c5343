"""What people's browsers, systems and connections do to the page, in a real Chromium."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from reading import Reader, visit
from serving import save_tiny, serve

LONG = "Once upon a time"
RELOADED = ("AbortError", "Connection errored out", "Failed to fetch", "ERR_", "NetworkError", "net::")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("people")
    save_tiny(home / "artifacts" / "endless", nats=2.0, ends=False, prompts=["ROMEO:"])
    save_tiny(home / "artifacts" / "ending", nats=1.0, ends=True)
    with serve(home, home / "artifacts") as server:
        yield server
        assert server.complaints() == []


@pytest.fixture
def desktop(browser, server):
    with visit(browser, server.url) as reader:
        yield reader
        # what Gradio writes when its page is reloaded in the middle of an answer
        reader.troubles[:] = [said for said in reader.troubles if not any(each in said for each in RELOADED)]


def setting(reader, label):
    return reader.page.get_by_role("spinbutton", name=f"number input for {label}")


def tell_long(reader, prompt=LONG):
    """Begins a long story of one draft, told by a model that does not end it, with settings that are not the usual."""
    reader.choose("endless")
    reader.set("Length, in characters", 4000)
    reader.set("Temperature", 1.25)
    reader.one_draft()
    field = reader.page.get_by_label("Seed")
    reader.fill(field, 11)
    field.press("Tab")
    reader.prompt.fill(prompt)
    reader.press("Tell")
    return reader.wait_for_longer(prompt)


def expect_the_visit(reader, told, prompt):
    """The page has the prompt, the model, the settings and the story so far; Continue goes on from there."""
    expect(reader.story).to_have_text(re.compile(f"^{re.escape(told)}"), use_inner_text=False)
    expect(reader.prompt).to_have_value(prompt)
    expect(reader.page.get_by_role("combobox", name="Model")).to_have_value(re.compile("^endless "))
    expect(reader.button("ROMEO:")).to_be_visible()
    for label, value in (("Length, in characters", "4000"), ("Temperature", "1.25"), ("Drafts", "1")):
        expect(setting(reader, label)).to_have_value(value)
    reader.press("More settings ▼")
    expect(setting(reader, "Beams")).to_have_value("1")
    expect(reader.page.get_by_label("Seed")).to_have_value("11")
    story = reader.wait_until_told()
    assert f"length={len(story) - len(LONG)}&" in reader.page.url and "seed=11" in reader.page.url
    reader.press("Continue")
    reader.wait_for_longer(story)
    reader.press("Stop")
    reader.page.wait_for_function("location.hash.includes('then=')")


def test_a_reload_in_mid_story_loses_nothing(desktop):
    told = tell_long(desktop)
    desktop.prompt.fill("My next story")
    desktop.page.reload()
    expect_the_visit(desktop, told, "My next story")
    whole, link = desktop.story.text_content(), desktop.page.url
    desktop.prompt.fill("Another")
    desktop.page.reload()
    expect(desktop.story).to_have_text(whole, use_inner_text=False)
    expect(desktop.prompt).to_have_value("Another")  # although the link has another prompt
    assert desktop.page.url == link
    desktop.page.goto("about:blank")
    desktop.page.go_back()
    expect(desktop.story).to_have_text(whole, use_inner_text=False)
    desktop.press("Clear")
    expect(desktop.story).to_have_text("Your story appears here.")
    desktop.page.reload()
    expect(desktop.page.get_by_role("combobox", name="Model")).to_have_value(re.compile("^endless "))
    expect(desktop.story).to_have_text("Your story appears here.")
    expect(desktop.prompt).to_have_value("")


class Line:
    """A connection to the server that can be cut, as a wireless network is lost."""

    def __init__(self, url: str) -> None:
        self.target = urlsplit(url).hostname, urlsplit(url).port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends: list[socket.socket] = []
        self.is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                near = self.listener.accept()[0]
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self.target)
                self.ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with source, suppress(OSError):  # cut, or closed by the other side
            while part := source.recv(1 << 16):
                sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self.is_cut = True
        for end in self.ends:
            with suppress(OSError):  # closed by its other side
                end.shutdown(socket.SHUT_RDWR)
        self.ends.clear()

    def close(self) -> None:
        self.cut()
        self.listener.shutdown(socket.SHUT_RDWR)  # ends the thread that accepts
        self.listener.close()


def test_a_dropped_connection_loses_nothing(browser, server):
    with closing(Line(server.url)) as line, visit(browser, line.url) as reader:
        told = tell_long(reader)
        reader.page.evaluate("window.isOld = true")
        line.cut()
        expect(reader.alert).to_contain_text("Connection to the server was lost")
        reader.prompt.fill("Typed meanwhile")
        time.sleep(1)
        line.is_cut = False
        reader.page.wait_for_function("!window.isOld", timeout=10_000)
        expect_the_visit(reader, told, "Typed meanwhile")
        reader.troubles.clear()  # the browser logs that the connection was lost


def test_what_is_chosen_without_a_connection_is_there_after_the_reload(browser, server):
    with closing(Line(server.url)) as line, visit(browser, line.url) as reader:
        tell_long(reader)
        reader.page.evaluate("window.isOld = true")
        line.cut()
        expect(reader.alert).to_contain_text("Connection to the server was lost")
        reader.choose("ending")
        reader.page.get_by_role("slider", name="Temperature").fill("0.75")
        reader.enter("Compare")
        assert reader.page.evaluate("window.isOld")
        line.is_cut = False
        reader.page.wait_for_function("!window.isOld", timeout=10_000)
        expect(reader.page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
        expect(reader.page.get_by_role("combobox", name="Model")).to_have_value(re.compile("^ending "))
        expect(setting(reader, "Temperature")).to_have_value("0.75")
        reader.troubles.clear()  # the browser logs that the connection was lost


def test_half_a_model_s_name_does_not_take_the_place_of_the_chosen_one(desktop):
    desktop.choose("endless")
    desktop.page.get_by_role("combobox", name="Model").press_sequentially("xy")
    desktop.page.reload()
    expect(desktop.page.get_by_role("combobox", name="Model")).to_have_value(re.compile("^endless "))


def test_a_link_that_is_pasted_in_mid_story_leaves_the_story_in_the_history(desktop, server):
    told = {}
    for prompt in ("A cat", "A dog"):
        told[prompt] = tell_long(desktop, prompt) if not told else desktop.wait_for_longer(prompt)
        desktop.page.evaluate("location.hash = '#prompt=Pasted'")
        expect(desktop.prompt).to_have_value("Pasted")
        expect(desktop.story).to_have_text("Your story appears here.")
        if prompt == "A cat":
            desktop.page.evaluate("location.hash = '#prompt=A+dog&model=endless&length=4000&seed=5&drafts=1&beams=1'")
    desktop.press("Stories of this visit ▼")
    items = desktop.page.get_by_role("listitem").get_by_role("button")
    expect(items).to_have_count(2)
    expect(items.first).to_contain_text(re.compile("^A dog"))
    items.nth(1).click()
    expect(desktop.story).to_have_text(re.compile(f"^{re.escape(told['A cat'])}"), use_inner_text=False)
    whole = desktop.story.text_content()
    desktop.page.wait_for_function("location.hash.includes('seed=11')")
    assert f"length={len(whole) - len('A cat')}&" in desktop.page.url


def test_a_number_in_a_link_that_a_browser_cannot_hold_is_refused_as_it_was_given(desktop, server):
    """JSON has no Infinity: the server would get null, and draw a seed."""
    first = "model=ending&length=40&temperature=0.5&top_k=0&top_p=1&min_p=0&seed=3&drafts=1&beams=1"
    whole = "must be a whole number from -1 to 9,007,199,254,740,991"
    length = "length (9007199254740993) must be a whole number from 1 to 4,000"
    links = {
        "seed=1e400": f"seed ('1e400') {whole}",
        "seed=Infinity": f"seed ('Infinity') {whole}",
        "seed=3&length=9007199254740993": length,
        f"{first}&then=40,0.5,0,1,0,1e400,1,1,ending": f"seed ('1e400') {whole}",
        f"{first}&then=40,0.5,0,1,0,Infinity,1,1,ending": f"seed ('Infinity') {whole}",
        f"{first}&then=9007199254740993,0.5,0,1,0,3,1,1,ending": length,
    }
    for link, refusal in links.items():
        desktop.page.goto("about:blank")
        desktop.page.goto(f"{server.url}/#prompt=Tom&{link}")
        expect(desktop.alert).to_have_text(refusal)
        if "then" in link:  # the first step stays, and its link
            desktop.page.wait_for_function("location.hash.includes('seed=3') && !location.hash.includes('then')")
        else:
            expect(desktop.story).to_have_text("Your story appears here.")


def test_a_reload_brings_back_the_other_tabs(desktop):
    desktop.enter("Compare")
    prompt = desktop.page.get_by_role("textbox", name="Prompt for all models")
    desktop.fill(prompt, "Ann")
    desktop.press("Compare")
    told = desktop.page.get_by_role("article", name="endless").locator(".told")
    expect(told).to_have_text(re.compile("."))
    desktop.page.reload()
    expect(told).to_have_text(re.compile("."))
    expect(prompt).to_have_value("Ann")
    expect(desktop.page.get_by_role("article", name="endless")).to_have_attribute("aria-busy", "false")

    desktop.enter("Look inside")
    box = desktop.page.get_by_role("textbox", name="Text to look into")
    desktop.fill(box, "Tom ran.")
    desktop.press("Colour this text")
    options = desktop.page.get_by_role("listbox").get_by_role("option")
    expect(options).to_have_count(9)
    options.nth(3).click()
    alternatives = desktop.page.get_by_role("table", name="The ten likeliest characters after “Tom”")
    expect(alternatives).to_be_visible()
    desktop.page.reload()
    expect(options).to_have_count(9)
    expect(box).to_have_value("Tom ran.")
    expect(options.nth(3)).to_have_attribute("aria-selected", "true")
    expect(alternatives).to_be_visible()
    expect(options.nth(3)).not_to_be_focused()
    desktop.fill(box, "Ann sat.")
    desktop.press("Colour this text")
    expect(desktop.page.get_by_role("option", selected=True)).to_have_count(0)  # it was in another text
    expect(alternatives).to_have_count(0)

    desktop.enter("Training")
    desktop.page.reload()
    expect(desktop.page.get_by_role("tab", name="Training")).to_have_attribute("aria-selected", "true")
    desktop.enter("Compare")
    expect(told).to_have_text(re.compile("."))


def test_a_link_comes_first_and_tabs_do_not_mix(desktop, server):
    desktop.choose("endless")
    desktop.set("Temperature", 1.25)
    desktop.prompt.fill("Mine")
    desktop.page.goto("about:blank")
    desktop.page.goto(f"{server.url}/#prompt=Shared&model=ending&length=40&seed=3")
    assert desktop.wait_until_told().startswith("Shared")
    expect(desktop.prompt).to_have_value("Shared")
    expect(setting(desktop, "Temperature")).to_have_value("0.5")  # the link tells the same story to everybody
    desktop.page.goto("about:blank")
    desktop.page.goto(f"{server.url}/#prompt=Only+this")  # without a seed it tells nothing
    expect(desktop.prompt).to_have_value("Only this")
    desktop.page.evaluate("location.hash = '#prompt=Pasted'")  # into the address bar of the open page
    expect(desktop.prompt).to_have_value("Pasted")
    expect(desktop.story).to_have_text("Your story appears here.")
    with closing(desktop.page.context.new_page()) as page:
        other = Reader(page).open(server.url)
        expect(other.story).to_have_text("Your story appears here.")
        expect(other.prompt).to_have_value("")


BROKEN = [
    "no JSON",
    "null",
    "7",
    '{"values": 5, "tab": "gone", "link": 3}',
    '{"values": {"model": "gone", "length": -5, "seed": 1e300, "prompt": {}, "story": {"prompt": "Tom"}, "scale": "?",'
    '  "stories": "?", "colours": {"model": "ending", "characters": "Tom", "bits": "alert(1)"}}, "tab": null}',
]


def test_a_stored_value_of_another_page_is_ignored(browser, server):
    script = "if (window.name) sessionStorage.visit = sessionStorage.stories = window.name"
    with visit(browser, server.url, script=script) as reader:
        for stored in BROKEN:
            reader.page.evaluate("stored => (window.name = stored)", stored)
            reader.page.reload()
            expect(reader.page.get_by_role("combobox", name="Model")).to_have_value(re.compile("^ending "))
            reader.page.wait_for_function("storyteller.names")
            expect(reader.story).to_have_text("Your story appears here.")
        reader.prompt.fill("Tom")
        reader.press("Tell")
        reader.wait_until_told()
        expect(reader.alert).to_have_count(0)


def test_storage_that_is_full_breaks_nothing(browser, server):
    script = "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError') }"
    with visit(browser, server.url, script=script) as reader:
        for name in ("Tom", "Ann"):
            reader.prompt.fill(name)
            reader.press("Tell")
            reader.wait_for_longer(name)
            reader.wait_until_told()
        reader.press("Stories of this visit ▼")
        expect(reader.page.get_by_role("listitem").get_by_role("button")).to_have_count(2)


def test_a_language_without_words_here_gets_english(browser, server):
    script = "Object.defineProperty(Navigator.prototype, 'language', { get: () => window.name })"
    with visit(browser, server.url, script=script) as reader:  # the language is an empty string
        for language in ("en-US@posix", "C", "fr-FR", ""):
            reader.page.evaluate("language => (window.name = language)", language)
            reader.page.reload()
            expect(reader.page.get_by_role("heading", level=1)).to_have_text("GPT From Scratch")
            expect(reader.page.locator("html")).to_have_attribute("lang", "en")
            said = reader.page.evaluate("[storyteller.number(1234.5, 1), storyteller.percent(0.5)]")
            assert said == ["1,234.5", "50%"], language
            reader.enter("Training")
            expect(reader.page.get_by_role("img", name=re.compile("^Loss while training")).first).to_be_visible()
        expect(reader.page.get_by_role("figure").get_by_text(re.compile(r"1\d\d,\d{3} parameters"))).to_be_visible()
        reader.enter("Compare")
        expect(reader.page.get_by_text("0.11 M parameters")).to_be_visible()
        reader.enter("Look inside")
        reader.fill(reader.page.get_by_role("textbox", name="Text to look into"), "Tom")
        reader.press("Colour this text")
        expect(reader.page.get_by_role("listbox").get_by_role("option")).to_have_count(4)


KEYS = {
    "an input method": "new KeyboardEvent('keydown', { key: 'Escape', isComposing: true, bubbles: true })",
    "an older input method": "new KeyboardEvent('keydown', { key: 'Escape', keyCode: 229, bubbles: true })",
    "a shortcut": "new KeyboardEvent('keydown', { key: 'Escape', ctrlKey: true, bubbles: true })",
    "a held key": "new KeyboardEvent('keydown', { key: 'Escape', repeat: true, bubbles: true })",
}


def test_a_key_that_something_else_uses_does_not_stop_the_story(desktop):
    tell_long(desktop)
    page, runs = desktop.page, lambda: desktop.page.wait_for_timeout(100) or page.evaluate("storyteller.telling")
    for user, event in KEYS.items():
        page.evaluate(f"document.querySelector('#prompt textarea').dispatchEvent({event})")
        assert runs(), user
    model = page.get_by_role("combobox", name="Model")
    model.click()
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    assert runs(), "a list"
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('dialog'), { id: 'over' })); over.showModal()"
    )
    page.keyboard.press("Escape")
    assert runs() and not page.evaluate("over.open"), "a dialog"
    page.evaluate("document.body.addEventListener('keydown', e => e.preventDefault(), { once: true })")
    page.keyboard.press("Escape")
    assert runs(), "a listener that used it"
    page.evaluate("window.addEventListener('keydown', e => e.preventDefault(), { once: true })")
    page.keyboard.press("Escape")
    assert runs(), "a listener that used it last"
    page.keyboard.press("Escape")
    desktop.wait_until_told()


OVER = "document.body.append(Object.assign(document.createElement('div'), { id: 'over' }));"
SHADOW = f"{OVER} const tree = over.attachShadow({{ mode: 'open' }});"
CLOSED_BY_ESCAPE = {
    "a popover": f"{OVER} over.popover = 'auto'; over.showPopover()",
    "a list": f"{OVER} over.role = 'listbox'; over.textContent = 'Tom'",
    "a dialog in a shadow tree": f"{SHADOW} tree.innerHTML = '<dialog><input></dialog>'; tree.firstChild.showModal()",
    "a popover in a shadow tree": f"{SHADOW} tree.innerHTML = '<p popover>Tom'; tree.firstChild.showPopover()",
    "a field in a shadow tree": f"{SHADOW} tree.innerHTML = '<input>'; tree.firstChild.focus()",
    "a search": f"{OVER} over.innerHTML = '<input type=search value=Tom>'; over.firstChild.focus()",
}
OPEN_FOR_EVER = {
    "a closed popover": f"{OVER} over.popover = 'auto'",
    "a popover that Escape leaves": f"{OVER} over.popover = 'manual'; over.showPopover()",
    "an empty search": f"{OVER} over.innerHTML = '<input type=search>'; over.firstChild.focus()",
}


def test_escape_closes_what_is_open_before_it_stops_a_story(desktop):
    page = desktop.page
    page.evaluate("() => { storyteller.stops = 0; storyteller.escape = () => (storyteller.stops += 1) }")
    stops = "() => new Promise(done => setTimeout(() => done(storyteller.stops), 20))"
    for thing, script in CLOSED_BY_ESCAPE.items():
        page.evaluate(f"() => {{ {script} }}")
        page.keyboard.press("Escape")
        assert page.evaluate(stops) == 0, thing
        page.evaluate("over.remove()")
    for i, (thing, script) in enumerate(OPEN_FOR_EVER.items()):
        page.evaluate(f"() => {{ {script} }}")
        page.keyboard.press("Escape")
        assert page.evaluate(stops) == i + 1, thing
        page.evaluate("over.remove()")


def test_the_browser_s_shortcuts_work_in_the_coloured_text(desktop):
    desktop.enter("Look inside")
    desktop.fill(desktop.page.get_by_role("textbox", name="Text to look into"), "Tom ran.")
    desktop.press("Colour this text")
    options = desktop.page.get_by_role("listbox").get_by_role("option")
    options.nth(3).click()
    used = """keys => keys.map(([key, more]) => !document.activeElement.dispatchEvent(
        new KeyboardEvent("keydown", { key, ...more, bubbles: true, cancelable: true })))"""
    shortcuts = [["ArrowLeft", {"altKey": True}], ["Home", {"ctrlKey": True}], ["Enter", {"isComposing": True}]]
    assert desktop.page.evaluate(used, shortcuts) == [False, False, False]
    assert desktop.page.evaluate(used, [["ArrowLeft", {}], ["ArrowLeft", {"repeat": True}]]) == [True, True]
    expect(options.nth(1)).to_be_focused()
    desktop.page.evaluate("() => { storyteller.escape = () => (storyteller.isStopped = true) }")
    desktop.page.keyboard.press("Escape")  # there is nothing to close
    desktop.page.wait_for_function("storyteller.isStopped")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_forced_colours_keep_what_the_page_says_with_colours(browser, server, scheme):
    with visit(
        browser, server.url, "#prompt=Tom&length=80&seed=1", color_scheme=scheme, forced_colors="active"
    ) as reader:
        reader.wait_until_told()
        style = "(it, [name]) => getComputedStyle(it)[name]"
        tabs = reader.page.get_by_role("tab")
        backgrounds = [tab.evaluate(style, ["backgroundColor"]) for tab in tabs.filter(visible=True).all()]
        assert len(set(backgrounds)) == 2 and backgrounds.count(backgrounds[0]) == 1
        slider = reader.page.get_by_role("slider", name="Temperature")
        pictures = []
        for value in (0, 1, 2):
            reader.set("Temperature", value)
            pictures.append(slider.screenshot())
        assert len(set(pictures)) == 3
        for name in ("Tell", "Stop", "Copy"):
            assert reader.button(name).evaluate(style, ["borderTopWidth"]) == "1px"
        reader.enter("Look inside")
        legend = reader.page.locator(".legend li")
        expect(legend).to_have_count(6)
        assert len({each.evaluate(style, ["backgroundColor"]) for each in legend.all()}) == 6
        reader.page.get_by_role("listbox").get_by_role("option").nth(1).click()
        bars = reader.page.locator(".bar")
        expect(bars.first).to_be_attached()
        ground = reader.page.locator("body").evaluate(style, ["backgroundColor"])
        assert ground not in {bar.evaluate(style, ["backgroundColor"]) for bar in bars.all()}


def paste(reader) -> str:
    """What a visitor gets by pasting."""
    reader.prompt.fill("")
    reader.prompt.press("Control+v")
    return reader.prompt.input_value()


NO_CLIPBOARD = "Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined });"  # as on plain http
DENIED = "navigator.clipboard.writeText = async () => { throw new DOMException('', 'NotAllowedError') };"


@pytest.mark.parametrize("script", [NO_CLIPBOARD, DENIED])
def test_copy_works_without_the_clipboard_s_permission(browser, server, script):
    with visit(browser, server.url, "#prompt=Tom&model=ending&length=80&seed=1", script=script) as reader:
        story = reader.wait_until_told()
        reader.press("Copy")
        expect(reader.button("Copied")).to_be_focused()
        assert paste(reader) == story
        reader.page.evaluate("document.execCommand = () => false")
        reader.page.locator("#copy").click()
        expect(reader.button("The browser did not allow it")).to_be_visible()


TRANSLATE = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  const isShown = (it) => it.data.trim() && !it.parentElement.closest("script, style, textarea");
  for (const text of texts.filter(isShown)) {
    const font = document.createElement("font");
    font.textContent = `${text.data} (übersetzt)`;
    text.replaceWith(font);
  }
}"""


def test_a_translated_page_goes_on_changing(desktop):
    """A translator replaces each text node by an element with another text."""
    desktop.set("Length, in characters", 60)
    desktop.page.evaluate(TRANSLATE)
    expect(desktop.page.locator("#model")).to_have_attribute("translate", "no")
    desktop.page.get_by_role("combobox", name="Model").click()
    desktop.page.get_by_role("option", name=re.compile("^endless ")).click()
    chip = desktop.button("ROMEO:")
    expect(chip).to_be_visible()
    desktop.page.evaluate(TRANSLATE)
    desktop.page.get_by_text("ROMEO: (übersetzt)").click()
    expect(desktop.prompt).to_have_value("ROMEO:")
    story = desktop.wait_until_told()
    assert story.startswith("ROMEO") and "übersetzt" not in story
    desktop.page.evaluate(TRANSLATE)
    desktop.page.locator("#another").click()
    desktop.page.wait_for_function("!location.hash")
    assert "übersetzt" not in desktop.wait_until_told()
    expect(desktop.about).not_to_contain_text("übersetzt")
    desktop.page.locator("#copy").click()
    expect(desktop.button("Copied")).to_be_visible()
    desktop.page.get_by_role("tab", name="Look inside").click()
    options = desktop.page.get_by_role("listbox").get_by_role("option")
    expect(options.first).to_be_visible()
    desktop.page.evaluate(TRANSLATE)
    options.nth(2).locator("font").click()
    expect(options.nth(2)).to_have_attribute("aria-selected", "true")


def test_a_history_that_is_forgotten_stays_so(desktop):
    desktop.set("Length, in characters", 60)
    desktop.one_draft()
    desktop.prompt.fill("Tom")
    desktop.page.locator("#tell").click()
    told = desktop.wait_until_told()
    desktop.page.wait_for_function("storyteller.history.read().length === 1")
    desktop.page.evaluate("storyteller.forget()")
    desktop.page.reload()
    expect(desktop.story).to_have_text(told)
    assert desktop.page.evaluate("storyteller.history.read()") == []
