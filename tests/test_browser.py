"""Telling stories in a real Chromium, with elements found by role and label, as a reader finds them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qsl, quote

import pytest
from playwright.sync_api import expect
from reading import MARKUP, Reader, visit
from serving import save_broken, save_tiny, serve

from model import Vocab, load
from model.sampling import USUAL, Sampling
from model.vocab import visible

LONG = "Once upon a time"
HINDI, ARABIC, EMOJI = "एक बार हिंदी", "كَان 3", "👩‍👧🐢"
MANY = Vocab.of_counts(Counter(f"{HINDI}{ARABIC}{EMOJI}从前有"))
WEIGHING = f"Choosing the best of {USUAL.drafts * USUAL.beams} drafts of each sentence…"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("browser")
    save_tiny(home / "artifacts" / "endless", nats=2.0, ends=False, prompts=["ROMEO:", {"no": "text"}])
    save_tiny(home / "artifacts" / "ending", nats=1.0, ends=True)
    prompts = [HINDI, ARABIC, "从前有", "☃"]
    save_tiny(home / "artifacts" / "many", nats=3.0, ends=True, vocab=MANY, prompts=prompts, language="hi")
    with serve(home, home / "artifacts") as server:
        yield server
        assert server.complaints() == []


@pytest.fixture
def desktop(browser, server):
    with visit(browser, server.url) as reader:
        yield reader


@pytest.fixture(params=[("desktop", "light"), ("phone", "dark")], ids="-".join)
def reader(browser, server, request):
    """A new visitor in each size."""
    size, scheme = request.param
    with visit(browser, server.url, size=size, color_scheme=scheme) as reader:
        yield reader


def tell_long(reader, prompt=LONG):
    """Begins a long story, told by a model that does not end it."""
    reader.choose("endless")
    reader.set("Length, in characters", 4000)
    reader.prompt.fill(prompt)
    reader.press("Tell")
    return reader.wait_for_longer(prompt)


def test_enter_tells_escape_stops_and_it_goes_on(reader):
    reader.choose("endless")
    reader.set("Length, in characters", 4000)
    reader.prompt.fill(LONG)
    reader.prompt.press("Enter")
    begun = reader.wait_for_longer(LONG)
    reader.wait_for_longer(begun)
    expect(reader.about).to_have_text(re.compile(rf"^[\d,]+ characters · [\d,]+ characters/s · seed \d+{WEIGHING}$"))
    expect(reader.story.locator(".given")).to_have_text(LONG)

    reader.page.keyboard.press("Escape")
    stopped = reader.wait_until_told()
    assert len(stopped) < 4000
    reader.page.wait_for_timeout(300)
    assert reader.story.text_content() == stopped
    expect(reader.about).to_have_text(re.compile(r"seed \d+$"))  # neither the model nor its length ended it

    reader.press("Continue")
    reader.wait_for_longer(stopped)
    reader.press("Stop")
    reader.wait_until_told()
    reader.press("Clear")
    expect(reader.prompt).to_have_value("")
    expect(reader.story).to_have_text("Your story appears here.")
    expect(reader.about).to_have_text("")
    assert "#" not in reader.page.url


def test_a_selection_in_a_growing_story_stays(desktop):
    desktop.one_draft()
    tell_long(desktop)
    told = desktop.story.locator(".told")
    told.evaluate("it => getSelection().setBaseAndExtent(it.firstChild, 0, it.firstChild, 1)")
    begun = told.text_content()
    desktop.wait_for_longer(LONG + begun)
    assert desktop.page.evaluate("String(getSelection())") == begun[0]


def test_a_story_stopped_before_its_first_sentence_keeps_its_whole_length_in_the_link(desktop):
    tell_long(desktop)
    desktop.press("Stop")
    desktop.wait_until_told()
    length = desktop.page.evaluate(
        """() => {
          const { current } = storyteller;
          return storyteller.steps({ ...current, steps: undefined, stopped: true, written: 0 })[0].length;
        }"""
    )
    assert length == 4000


def test_a_stored_story_from_before_drafts_continues_with_one_draft(desktop):
    old = dict(model="endless", prompt="Tom", length=60, temperature=0.8, top_k=0, top_p=1, min_p=0, seed=7)
    telling = dict(prompt="Tom", text=" ran.", settings=old, steps=[old], written=5, speed=1, dropped=[], kept=None)
    telling |= dict(running=False, ended=False)
    desktop.page.evaluate("stories => sessionStorage.setItem('stories', stories)", json.dumps([telling]))
    desktop.page.reload()
    desktop.press("Stories of this visit ▼")
    desktop.page.get_by_role("listitem").get_by_role("button").click()
    desktop.wait_for_longer("Tom")
    assert "drafts=1" in desktop.page.url
    expect(desktop.page.get_by_role("spinbutton", name="number input for Drafts")).to_have_value("1")
    desktop.press("Continue")
    desktop.page.wait_for_function("location.hash.includes('then=')")
    assert "drafts=1" in desktop.page.url.split("then=")[0]


def test_stop_before_the_story_has_begun(desktop):
    """Stop is pressed before the server's answer to Tell has arrived."""
    desktop.choose("endless")
    desktop.set("Length, in characters", 4000)

    def late(route):
        answer = route.fetch()
        desktop.press("Stop")
        desktop.page.wait_for_timeout(300)
        route.fulfill(response=answer)

    desktop.page.route("**/queue/join*", late, times=1)
    desktop.prompt.fill("Tom")
    desktop.press("Tell")
    stopped = desktop.wait_until_told()
    desktop.page.wait_for_timeout(300)
    assert desktop.story.text_content() == stopped and len(stopped) < 4000


def test_shift_enter_breaks_the_line(desktop):
    desktop.prompt.fill("Tom ran.")
    desktop.prompt.press("Shift+Enter")
    desktop.prompt.press_sequentially("Ann")
    expect(desktop.prompt).to_have_value("Tom ran.\nAnn")
    expect(desktop.story).to_have_text("Your story appears here.")


def test_a_model_offers_its_own_prompts(desktop):
    own = desktop.page.get_by_role("button", name="ROMEO:")
    common = desktop.page.get_by_role("button", name="One rainy day, Tom and his cat")
    expect(common).to_be_visible()
    expect(own).to_have_count(0)
    desktop.choose("endless")
    expect(own).to_be_visible()
    expect(common).to_have_count(0)
    desktop.press("ROMEO:")
    expect(desktop.prompt).to_have_value("ROMEO:")
    desktop.choose("ending")
    expect(common).to_be_visible()


def test_an_example_is_told_and_a_new_story_replaces_the_old(desktop):
    chip = "The dragon was afraid of the dark."
    desktop.choose("endless")
    desktop.set("Length, in characters", 60)
    desktop.press(chip)
    desktop.wait_for_longer(chip)
    expect(desktop.prompt).to_have_value(chip)
    assert desktop.wait_until_told().startswith(chip)
    desktop.prompt.fill("A cat")
    desktop.press("Tell")
    desktop.wait_for_longer("A cat")


def test_tell_replaces_a_story_that_is_being_continued(desktop):
    told = tell_long(desktop, "A cat")
    desktop.press("Continue")
    desktop.wait_for_longer(told)  # perhaps by the first of the two, which Continue has to end
    desktop.prompt.fill("A dog")
    desktop.press("Tell")
    desktop.wait_for_longer("A dog")
    desktop.press("Tell another")
    desktop.wait_for_longer("A dog")


def test_of_two_buttons_at_once_the_second_tells(desktop):
    tell_long(desktop, "A cat")
    desktop.prompt.fill("A dog")
    desktop.page.evaluate("() => ['#go_on', '#tell'].forEach(id => document.querySelector(id).click())")
    desktop.wait_for_longer("A dog")


def test_tell_in_mid_story_begins_anew_and_keeps_what_was_told(desktop):
    told = tell_long(desktop, "A cat")
    desktop.prompt.fill("A dog")
    desktop.prompt.press("Enter")
    desktop.wait_for_longer("A dog")
    desktop.press("Tell another")
    expect(desktop.about).to_have_text(re.compile("characters · "))
    desktop.page.wait_for_timeout(1200)
    assert desktop.page.evaluate("location.hash") == "", "it must still be running"
    expect(desktop.story).to_have_attribute("aria-busy", "true")
    desktop.press("Stop")
    assert desktop.wait_until_told().startswith("A dog")
    desktop.press("Stories of this visit ▼")
    kept = desktop.page.get_by_role("listitem").get_by_role("button")
    expect(kept).to_have_count(3)
    kept.last.click()
    assert desktop.wait_until_told().startswith(told)


def test_a_story_that_is_recalled_in_mid_story_stays(desktop):
    desktop.choose("ending")
    desktop.prompt.fill("Ann")
    desktop.press("Tell")
    story = desktop.wait_until_told()
    tell_long(desktop, "Tom")
    desktop.press("Stories of this visit ▼")
    desktop.page.get_by_role("listitem").get_by_role("button").first.click()
    expect(desktop.story).to_have_text(story, use_inner_text=False)
    desktop.page.wait_for_timeout(500)
    assert desktop.story.text_content() == story and "prompt=Ann" in desktop.page.url


def test_a_link_tells_the_same_story(browser, server, desktop):
    desktop.choose("endless")  # the other model may end the story before it writes a character
    desktop.set("Length, in characters", 120)
    desktop.set("Temperature", 1.2)
    desktop.set_seed(11)
    desktop.prompt.fill("Tom & Ann\n100 % = ?#")
    desktop.press("Tell")
    story = desktop.wait_until_told()
    link = desktop.page.url.split("/")[-1]
    with visit(browser, server.url, link) as other:
        expect(other.story).to_have_text(story, use_inner_text=False)
        assert other.wait_until_told() == story
        expect(other.prompt).to_have_value("Tom & Ann\n100 % = ?#")
        other.press("Continue")
        longer = other.wait_for_longer(story)
        other.page.wait_for_function("location.hash.includes('then=')")
        longer = other.story.text_content()
        link = other.page.url.split("/")[-1]
    with visit(browser, server.url, link) as third:
        expect(third.story).to_have_text(longer, use_inner_text=False)
        expect(third.story.locator(".given")).to_have_text("Tom  Ann    ", use_inner_text=False)  # known ones
        third.page.wait_for_function("location.hash.includes('then=')")
        assert third.page.url.split("/")[-1] == link


def test_a_link_from_before_there_were_drafts_tells_the_story_that_it_told(browser, server):
    link = "#model=ending&prompt=Tom&length=80&temperature=0.9&top_k=0&top_p=1&min_p=0&seed=5"
    before = Sampling(length=80, temperature=0.9, seed=5)
    storyteller = load(server.log.parent / "artifacts" / "ending")
    first = "Tom" + "".join(storyteller.tell("Tom", before))
    first += "\n" * (len(first) < 83)  # Continue begins a line where the model ended the story
    whole = first + "".join(storyteller.tell(first, replace(before, length=30, seed=6)))
    first = first.rstrip("\n")
    with visit(browser, server.url, link) as reader:
        expect(reader.story).to_have_text(first, use_inner_text=False)
        reader.wait_until_told()
        assert "drafts=1&beams=1" in reader.page.url
        reader.show_settings()
        expect(reader.page.get_by_role("spinbutton", name="number input for Drafts")).to_have_value("1")
    with visit(browser, server.url, f"{link}&then=30,0.9,0,1,0,6,ending") as reader:
        expect(reader.story).to_have_text(whole, use_inner_text=False)


def test_the_page_shows_that_drafts_are_compared(desktop):
    desktop.prompt.fill("Tom")
    tell_long(desktop, "Tom")
    expect(desktop.story).to_have_class(re.compile("weighing"))
    expect(desktop.about).to_contain_text(WEIGHING)
    desktop.press("Stop")
    desktop.wait_until_told()
    expect(desktop.story).not_to_have_class(re.compile("weighing"))
    expect(desktop.about).not_to_contain_text(WEIGHING)
    desktop.one_draft()
    tell_long(desktop, "Tom")
    expect(desktop.story).not_to_have_class(re.compile("weighing"))
    expect(desktop.about).not_to_contain_text("drafts")


def test_the_link_of_a_stopped_story_tells_it_to_where_it_stopped(browser, server, desktop):
    """With drafts, as on the page: a stopped story consists of whole sentences."""
    tell_long(desktop, "A cat")
    desktop.press("Stop")
    stopped = desktop.wait_until_told()
    assert stopped[-1] in '.!?\n"'
    desktop.set("Length, in characters", 100)
    desktop.press("Continue")
    desktop.wait_for_longer(stopped)
    desktop.page.wait_for_function("location.hash.includes('then=')")
    story = desktop.story.text_content()
    assert len(stopped) < len(story) <= len(stopped) + 100
    with desktop.page.expect_download() as download:
        desktop.press("Download")
    settings = Path(download.value.path()).read_text().split("\n---\n")[1]
    assert f"length: {len(stopped) - len('A cat')}\n" in settings and "\nthen model=endless length=100 " in settings
    with visit(browser, server.url, desktop.page.url.split("/")[-1]) as other:
        expect(other.story).to_have_text(story, use_inner_text=False, timeout=20_000)
        other.page.wait_for_timeout(300)
        assert other.story.text_content() == story


def test_the_link_of_a_story_longer_than_a_prompt_tells_all_of_it(browser, server, desktop):
    desktop.choose("endless")
    desktop.one_draft()
    desktop.set("Length, in characters", 60)
    desktop.prompt.fill("word " * 796)
    for button in ("Tell", "Continue", "Continue"):
        before = desktop.story.text_content()
        desktop.press(button)
        desktop.wait_for_longer("word ")
        desktop.page.wait_for_function("before => story.textContent !== before && location.hash", arg=before)
        desktop.page.wait_for_function("!storyteller.telling")
    story = desktop.story.text_content()
    assert len(story) == 5 * 796 + 3 * 60 > 4000
    with visit(browser, server.url, desktop.page.url.split("/")[-1]) as other:
        expect(other.story).to_have_text(story, use_inner_text=False)

    desktop.press("Edit and go on from here")
    expect(desktop.alert).to_have_text("A prompt holds at most 4,000 characters, so this is only the end of the story.")
    written = desktop.prompt.input_value()
    assert story.endswith(written) and 3900 < len(written) <= 4000 and story[-len(written) - 1] == " "
    desktop.press("Tell")
    desktop.wait_for_longer(written)
    expect(desktop.alert).to_have_count(0)


def test_a_link_whose_second_step_is_refused_stays_with_its_first(browser, server):
    steps = "then=60,0.8,0,1,0,1,endless&then=60,9,0,1,0,1,endless&then=60,0.8,0,1,0,1,endless"
    with visit(browser, server.url, f"#prompt=Tom&model=endless&length=60&seed=1&{steps}") as reader:
        expect(reader.alert).to_have_text("temperature (9) must be a number from 0 to 2")
        assert len(reader.wait_until_told()) == len("Tom") + 2 * 60
        assert reader.page.url.count("then=") == 1


def test_stop_ends_all_steps_of_a_link(browser, server):
    steps = "then=4000,0.8,0,1,0,1,endless&then=60,0.8,0,1,0,1,endless"
    with visit(browser, server.url, f"#prompt=Tom&model=endless&length=60&seed=1&{steps}") as reader:
        reader.page.wait_for_function("storyteller.whole(storyteller.current).length > 100")
        reader.press("Stop")
        stopped = reader.wait_until_told()
        reader.page.wait_for_timeout(400)
        assert reader.story.text_content() == stopped and len(stopped) < 4000
        expect(reader.story).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize(
    ("size", "setting", "label", "said"),
    [
        (
            "desktop",
            "top_k=-5&seed=1",
            "number input for Top-k",
            "top_k (-5) must be a whole number of at least 0 (0 keeps all)",
        ),
        ("phone", "seed=-5", "Seed", "seed (-5) must be a whole number from -1 to 9,007,199,254,740,991"),
        (
            "phone",
            "temperature=9&seed=1",
            "number input for Temperature",
            "temperature (9) must be a number from 0 to 2",
        ),
    ],
)
def test_a_refused_setting_is_made_visible(browser, server, size, setting, label, said):
    with visit(browser, server.url, f"#prompt=Tom&{setting}", size=size) as reader:
        expect(reader.alert).to_have_text(said)
        field = reader.page.get_by_label(label)
        expect(field).to_be_visible()
        expect(field).to_have_attribute("aria-invalid", "true")
        beside = reader.page.locator("#settings .refusal")
        expect(beside).to_have_text(said)
        expect(beside).to_be_in_viewport()
        reader.page.evaluate("history.replaceState(null, '', location.pathname)")
        reader.press("Clear")
        expect(beside).to_have_count(0)
        if label != "number input for Temperature":
            reader.press("More settings ▼")
        reader.press("Tell")  # once more, with the field in an accordion that was open and is closed
        expect(field).to_be_visible()
        expect(beside).to_be_in_viewport()


@pytest.mark.parametrize("locale", ["en-US", "de-DE"])
def test_a_seed_that_a_browser_rounds_is_refused_as_it_was_given(browser, server, locale):
    """JavaScript makes 9007199254740992 of it."""
    given = "(9007199254740993)"
    with visit(browser, server.url, "#prompt=Tom&seed=9007199254740993", locale=locale) as reader:
        expect(reader.alert).to_contain_text(given)
        reader.page.get_by_role("spinbutton", name=re.compile("Seed|Startwert")).fill("9007199254740995")
        reader.page.locator("#tell").click()
        expect(reader.alert).to_contain_text("(9007199254740995)")
        reader.page.get_by_role("spinbutton", name=re.compile("Seed|Startwert")).fill("9007199254740991")
        reader.page.locator("#tell").click()
        reader.page.wait_for_function("location.hash.includes('seed=9007199254740991')")


def test_without_a_story_there_is_nothing_to_continue_to_copy_or_to_download(desktop):
    buttons = [desktop.page.locator(f"#{name}") for name in ("go_on", "edit", "copy", "download")]
    for button in buttons:
        expect(button).to_be_disabled()
    expect(desktop.page.locator("#another")).to_be_enabled()
    desktop.prompt.fill("Tom")
    desktop.press("Tell")
    desktop.wait_until_told()
    for button in buttons:
        expect(button).to_be_enabled()
    desktop.page.reload()
    desktop.wait_until_told()
    for button in buttons:
        expect(button).to_be_enabled()
    desktop.press("Clear")
    for button in buttons:
        expect(button).to_be_disabled()


def test_a_prompt_of_which_nothing_is_left_tells_from_the_start_and_says_so(desktop):
    says = "The model knows no letter of this prompt, so the story begins from the start. Left out: 你 好 ☃"
    desktop.prompt.fill("你好 ☃")
    desktop.press("Tell")
    desktop.wait_until_told()
    note = desktop.page.get_by_text(says, exact=True)
    assert note.bounding_box()["y"] < desktop.story.bounding_box()["y"]
    assert note.evaluate("it => getComputedStyle(it).fontWeight") == "600"
    expect(desktop.story.locator(".given")).to_have_text("")
    expect(desktop.story.locator(".told")).not_to_be_empty()

    desktop.enter("Compare")
    desktop.fill(desktop.page.get_by_role("textbox", name="Prompt for all models"), "从前☃")
    desktop.press("Compare")
    for name, note in (("ending", "begins from the start. Left out: 从 前 ☃"), ("many", "does not know them: ☃")):
        expect(desktop.page.get_by_role("article", name=name)).to_contain_text(note)


def test_any_script_is_told_linked_continued_and_downloaded(browser, server):
    prompt = f"{EMOJI} {HINDI}\u202e\0☃"
    link = f"#model=many&prompt={quote(prompt)}&length=30&seed=5"
    with visit(browser, server.url, link) as reader:
        story = reader.wait_until_told()
        expect(reader.prompt).to_have_value(prompt)
        expect(reader.story).to_have_attribute("lang", "hi")
        expect(reader.story.locator(".given")).to_have_text(f"{EMOJI} {HINDI}")
        expect(reader.page.get_by_text("does not know them: U+202E U+0000 ☃")).to_be_visible()
        told = reader.page.evaluate("[...storyteller.current.text].length")
        expect(reader.about).to_contain_text(f"{told} characters ·")
        reader.page.reload()
        expect(reader.story).to_have_text(story, use_inner_text=False)
        expect(reader.prompt).to_have_value(prompt)
        with reader.page.expect_download() as download:
            reader.press("Download")
        text = Path(download.value.path()).read_text()
        assert text.startswith(f"{story}\n\n---\n") and f"\nprompt: {json.dumps(prompt, ensure_ascii=False)}\n" in text
        reader.press("Continue")
        reader.wait_for_longer(story)
        reader.page.wait_for_function("location.hash.includes('then=')")
        expect(reader.story.locator(".given")).to_have_text(f"{EMOJI} {HINDI}")  # cut where it was, behind two emoji
        assert reader.page.evaluate("storyteller.last('🐢🐢a', 2)") == "🐢a"


def test_arabic_reads_from_the_right_and_its_neighbours_do_not(browser, server):
    with visit(browser, server.url, f"#model=many&prompt={quote(ARABIC)}&length=30&seed=5") as reader:
        reader.wait_until_told()
        chip = reader.page.get_by_role("button", name=ARABIC)
        for element, direction in ((reader.story, "rtl"), (reader.about, "ltr"), (chip, "ltr")):
            assert element.evaluate("it => getComputedStyle(it).direction") == direction
        assert reader.prompt.evaluate("it => getComputedStyle(it).unicodeBidi") == "plaintext"
        expect(reader.button("One rainy day, Tom and his cat")).to_have_count(0)  # it is English
        reader.enter("Look inside")
        options = reader.page.get_by_role("listbox").get_by_role("option")
        options.first.click()
        expect(options.first).to_have_attribute("aria-selected", "true")
        options.first.click()  # again: the vowel that is drawn on it
        expect(options.nth(1)).to_have_attribute("aria-selected", "true")
        assert re.match(r"^\u2068◌\u064e\u2069, [\d.]+ bits", options.nth(1).get_attribute("title"))
        expect(reader.page.get_by_role("caption")).to_have_text("The ten likeliest characters after “\u2068ك\u2069”")
        reader.page.keyboard.press("ArrowLeft")  # the next one, as it reads
        reader.page.keyboard.press("Enter")
        expect(options.nth(2)).to_have_attribute("aria-selected", "true")
        named = [reader.page.evaluate("it => storyteller.visible(it)", each) for each in "ि\u200d\u3000\u202e\0a"]
        assert named == [visible(each) for each in "ि\u200d\u3000\u202e\0a"]


def test_after_continue_the_figures_are_those_of_the_whole_story(desktop):
    desktop.choose("endless")
    desktop.set("Length, in characters", 60)
    desktop.prompt.fill("Tom")
    desktop.press("Tell")
    told = desktop.wait_until_told()
    desktop.press("Continue")
    desktop.wait_for_longer(told)
    story = desktop.wait_until_told()
    steps = dict(parse_qsl(desktop.page.url.split("#")[1]))
    figures = (
        rf"^{len(story) - 3} characters · [\d,]+ characters/s · seed {steps['seed']}, {steps['then'].split(',')[5]}\b"
    )
    expect(desktop.about.locator("p").first).to_have_text(re.compile(figures))


def test_escape_stops_from_another_tab(desktop):
    tell_long(desktop, "A cat")
    desktop.enter("Compare")
    desktop.page.keyboard.press("Escape")
    desktop.page.wait_for_function("!storyteller.current.running && location.hash.includes('seed=')")
    stopped = desktop.page.locator("#story article").text_content()
    assert len(stopped) < 4000
    desktop.fill(desktop.page.get_by_role("textbox", name="Prompt for all models"), "A dog")
    desktop.press("Compare")
    card = desktop.page.get_by_role("article", name="endless")
    expect(card).to_have_attribute("aria-busy", "true")
    desktop.enter("Tell")
    desktop.page.keyboard.press("Escape")
    desktop.page.wait_for_function("storyteller.compared.every(telling => !telling.running)")
    assert desktop.story.text_content() == stopped
    desktop.enter("Compare")
    assert len(card.locator(".told").text_content()) < 4000
    expect(card.locator(".about")).not_to_contain_text("limit")


def test_a_continue_that_writes_nothing_is_no_step(desktop):
    tell_long(desktop, "A cat")
    desktop.press("Stop")
    desktop.wait_until_told()
    link = desktop.page.url
    kept = desktop.page.evaluate(
        """async () => {
          storyteller.continued = storyteller.current.steps;
          storyteller.current = { ...storyteller.current, steps: undefined, running: false, written: 0, ended: true };
          return storyteller.over()[1].length;
        }"""
    )
    assert (kept, desktop.page.url) == (1, link)


@pytest.mark.parametrize("locale", ["en-US", "de-DE", "hi-IN"])
def test_a_phone_shows_all_tabs_and_the_beginning_of_the_story(browser, server, locale):
    """And no word about keys, which a touch screen does not have."""
    link = "#prompt=Once+upon+a+time&model=ending&length=80&seed=1"
    with visit(browser, server.url, link, size="phone", locale=locale, has_touch=True, is_mobile=True) as reader:
        page = reader.page
        page.wait_for_function("storyteller.current && !storyteller.current.running")
        expect(page.locator("#prompt").get_by_text(re.compile("Shift|Umschalt"))).not_to_be_visible()
        for width, height in ((390, 844), (360, 640)):
            page.set_viewport_size({"width": width, "height": height})
            tabs = page.get_by_role("tab").filter(visible=True)
            expect(tabs).to_have_count(4)
            for things in (tabs, page.locator(".chips button"), page.locator("#tell, #stop, #tell ~ button")):
                assert len({thing.bounding_box()["y"] for thing in things.all()}) == 1, "not in one row"
            assert page.locator("#story article").bounding_box()["y"] < height - 100
            assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("locale", ["en-US", "de-DE"])
def test_the_tabs_stay_where_they_are(browser, server, locale):
    """Whether what the open one holds is wide or narrow, and long enough for a scroll bar or not."""
    with visit(browser, server.url, locale=locale) as reader:
        page = reader.page
        expect(page.locator("html")).to_have_css("scrollbar-gutter", "stable")  # this browser shows no scroll bars
        expect(page.get_by_role("tab")).to_have_count(4)  # else the page is still loading
        for width in (1024, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            places = set()
            for tab in page.get_by_role("tab").all():
                tab.click()
                expect(tab).to_have_attribute("aria-selected", "true")
                page.wait_for_timeout(50)
                places.add(page.get_by_role("tablist").bounding_box()["x"])
            assert len(places) == 1


def test_the_page_links_where_it_comes_from(desktop):
    for name, address in (
        ("Data: TinyStories", "https://huggingface.co/datasets/roneneldan/TinyStories"),
        ("Paper on the data", "https://arxiv.org/abs/2305.07759"),
    ):
        link = desktop.page.get_by_role("link", name=name)
        expect(link).to_have_attribute("href", address)
        expect(link).to_have_attribute("target", "_blank")
        expect(link).to_have_attribute("rel", re.compile("noopener"))
    expect(desktop.page.locator("#links").get_by_role("link")).to_have_count(2)


def test_the_console_says_where_the_page_is_and_offers_no_public_link(server):
    until = time.monotonic() + 5
    while f"The page is at {server.url}/\n" not in server.log.read_text():  # it answers a moment before that
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "share=True" not in server.log.read_text()


def test_on_a_phone_the_api_link_is_visible(browser, server):
    with visit(browser, server.url, size="phone") as reader:
        expect(reader.page.get_by_role("button", name="Use via API or MCP")).to_be_visible()


def test_on_a_phone_one_box_shows_the_settings(browser, server):
    with visit(browser, server.url, size="phone") as reader:
        box = reader.page.get_by_role("checkbox", name="Model and settings")
        length = reader.page.get_by_role("spinbutton", name="number input for Length, in characters")
        expect(length).not_to_be_visible()
        assert reader.prompt.bounding_box()["y"] < 400
        box.check()
        expect(reader.page.locator("#settings")).to_be_focused()  # it comes after the tabs in the document
        assert 0 < length.bounding_box()["y"] < 740
        reader.set("Length, in characters", 40)
        box.uncheck()
        expect(length).not_to_be_visible()
        reader.prompt.fill("Tom")
        reader.press("Tell")
        assert "length=40" in (reader.wait_until_told(), reader.page.url)[1]


def test_an_emptied_box_gets_its_value_back(desktop):
    for label, value in (("Length, in characters", str(USUAL.length)), ("Temperature", str(USUAL.temperature))):
        box = desktop.page.get_by_role("spinbutton", name=f"number input for {label}")
        box.fill("")
        box.press("Tab")
        expect(box).to_have_value(value)
    desktop.prompt.fill("Tom")
    desktop.press("Tell")
    desktop.wait_until_told()
    assert f"length={USUAL.length}&temperature={USUAL.temperature}&" in desktop.page.url


def test_clear_in_mid_story_leaves_nothing(desktop):
    tell_long(desktop, "A cat")
    desktop.press("Clear")
    expect(desktop.story).to_have_text("Your story appears here.")
    desktop.page.wait_for_timeout(600)
    expect(desktop.story).to_have_text("Your story appears here.")
    expect(desktop.prompt).to_have_value("")
    assert "#" not in desktop.page.url
    desktop.press("Stories of this visit ▼")
    expect(desktop.button("Forget them")).to_be_visible()
    expect(desktop.page.get_by_role("listitem").get_by_role("button")).to_have_count(0)


def test_what_screen_readers_announce(browser, server):
    """A finished story and a copy are announced; a stopped story and one that is shown again are not."""
    with visit(browser, server.url, permissions=["clipboard-read", "clipboard-write"]) as reader:
        status = reader.page.locator("#story").get_by_role("status")
        tell_long(reader, "A cat")
        reader.press("Stop")
        reader.wait_until_told()
        expect(status).to_have_text("")
        reader.press("Copy")
        expect(status).to_have_text("Copied")
        reader.set("Length, in characters", 60)
        reader.press("Tell another")
        expect(status).to_have_text("The story is finished.")


def test_a_bad_link_is_refused_in_place(browser, server):
    with visit(browser, server.url, "#prompt=Tom&length=-5&seed=1") as reader:
        expect(reader.alert).to_have_text("length (-5) must be a whole number from 1 to 4,000")
        expect(reader.prompt).to_have_value("Tom")
    with visit(browser, server.url, "#prompt=Tom&model=gpt-4&seed=1") as reader:
        expect(reader.alert).to_have_text("model must be one of ending, endless, many")
        expect(reader.prompt).to_have_value("Tom")
        reader.troubles.clear()  # Gradio warns of a model that is not in its list


def test_the_same_seed_shows_the_same_story_and_another_does_not(desktop):
    desktop.set_seed(11)
    stories = []
    for button in ("Tell", "Tell", "Tell another"):
        desktop.press(button)
        desktop.page.wait_for_function("!location.hash")
        stories.append(desktop.wait_until_told())
    assert stories[0] == stories[1] != stories[2]
    assert "seed=11&" not in desktop.page.url


def test_edit_copy_download(browser, server):
    with visit(browser, server.url, permissions=["clipboard-read", "clipboard-write"]) as reader:
        reader.set_seed(5)
        reader.prompt.fill("Tom")
        reader.press("Tell")
        story = reader.wait_until_told()

        reader.press("Copy")
        expect(reader.button("Copied")).to_be_visible()
        assert reader.page.evaluate("navigator.clipboard.readText()") == story

        with reader.page.expect_download() as download:
            reader.press("Download")
        assert download.value.suggested_filename == "story-ending-5.txt"
        text = Path(download.value.path()).read_text()
        assert text.startswith(f"{story}\n\n---\nmodel: ending\nlength: {USUAL.length}\n")
        assert text.endswith(f'\nseed: 5\ndrafts: {USUAL.drafts}\nbeams: {USUAL.beams}\nprompt: "Tom"\n')

        reader.press("Edit and go on from here")
        expect(reader.prompt).to_have_value(story)
        expect(reader.prompt).to_be_focused()
        reader.page.keyboard.type(" And then")
        reader.prompt.press("Enter")
        reader.wait_for_longer(f"{story} And then")


def test_the_history_stays_in_the_browser(browser, server, desktop):
    stories = []
    for name in ("Tom", "Ann"):
        desktop.prompt.fill(name)
        desktop.press("Tell")
        desktop.wait_for_longer(name)
        stories.append(desktop.wait_until_told())
    desktop.press("Stories of this visit ▼")
    kept = desktop.page.get_by_role("listitem").get_by_role("button")
    expect(kept).to_have_count(2)
    desktop.choose("endless")
    kept.nth(1).click()
    expect(desktop.story).to_have_text(stories[0])
    expect(desktop.prompt).to_have_value("Tom")  # its settings are back, for Tell another and Continue
    expect(desktop.page.get_by_role("combobox", name="Model")).to_have_value(re.compile("^ending "))

    with visit(browser, server.url) as other:  # another visitor sees nothing of it
        other.press("Stories of this visit ▼")
        expect(other.button("Forget them")).to_be_visible()
        expect(other.page.get_by_role("listitem").get_by_role("button")).to_have_count(0)

    second = desktop.page.context.new_page()  # another tab
    second.goto(server.url)
    second.get_by_role("button", name="Stories of this visit ▼").click()
    expect(second.get_by_role("button", name="Forget them")).to_be_visible()
    expect(second.get_by_role("listitem").get_by_role("button")).to_have_count(0)
    second.close()

    desktop.page.reload()
    desktop.wait_until_told()  # the story of the link is told again, and kept once
    desktop.press("Stories of this visit ▼")
    expect(kept).to_have_count(2)
    desktop.press("Forget them")
    expect(kept).to_have_count(0)


def test_markup_is_text_everywhere(desktop):
    prompt = f"{MARKUP} \x07\u202e"
    desktop.set_seed(3)
    desktop.prompt.fill(prompt)
    desktop.press("Tell")
    desktop.wait_for_longer(MARKUP)
    story = desktop.wait_until_told()
    assert desktop.page.url.split("#")[1].startswith("model=ending&prompt=%3Cimg+src%3Dx")

    with desktop.page.expect_download() as download:
        desktop.press("Download")
    text = Path(download.value.path()).read_text()
    assert text.startswith(story) and json.dumps(MARKUP)[1:-1] in text

    desktop.press("Stories of this visit ▼")
    expect(desktop.page.get_by_role("listitem").get_by_role("button")).to_contain_text(MARKUP[:60])
    desktop.enter("Look inside")
    options = desktop.page.get_by_role("listbox").get_by_role("option")
    expect(options).to_have_count(len(story) + 1)
    assert "".join(options.all_text_contents()[:-1]).replace("⏎\n", "\n") == story
    options.nth(5).click()
    expect(desktop.page.get_by_role("caption")).to_contain_text(f"“{MARKUP[:5]}”")

    desktop.enter("Compare")
    desktop.fill(desktop.page.get_by_role("textbox", name="Prompt for all models"), MARKUP)
    desktop.press("Compare")
    expect(desktop.page.get_by_role("article", name="ending")).to_contain_text(MARKUP)
    assert desktop.page.title() == "GPT From Scratch"
    assert desktop.page.locator("main img[src=x], main script").count() == 0


def test_a_link_with_markup_is_text(browser, server):
    with visit(browser, server.url, f"#prompt={quote(MARKUP)}&length=40&seed=1") as reader:
        reader.wait_for_longer(MARKUP)
        expect(reader.prompt).to_have_value(MARKUP)
        reader.wait_until_told()
        assert reader.page.title() == "GPT From Scratch"


def test_the_server_s_refusals_are_shown_in_the_visitor_s_language(browser, server):
    with visit(browser, server.url, "#prompt=Tom&length=-5&seed=1", locale="hi-IN") as reader:
        expect(reader.alert).to_have_text("“लंबाई, अक्षरों में” (-5) 1 से 4,000 तक की पूर्ण संख्या होनी चाहिए।")
    with visit(browser, server.url, locale="de-DE") as reader:
        reader.page.locator("#prompt textarea").fill("a" * 4001)
        reader.page.locator("#tell").click()
        expect(reader.alert).to_contain_text("4.001 Zeichen sind zu viele, die Grenze ist 4.000.")
    with visit(browser, server.url, "#prompt=Tom&seed=1.5", locale="de-DE") as reader:
        expect(reader.alert).to_contain_text("9.007.199.254.740.991")


def test_a_refusal_stays_in_place_with_its_field_marked(desktop):
    desktop.prompt.fill("a" * 4001)
    desktop.press("Tell")
    expect(desktop.alert).to_have_text("prompt has 4,001 characters; the limit is 4,000: shorten it")
    expect(desktop.prompt).to_have_attribute("aria-invalid", "true")
    expect(desktop.prompt).to_have_accessible_description(re.compile("4,001"))
    expect(desktop.prompt).to_have_value("a" * 4001)
    desktop.prompt.fill("Tom")
    desktop.press("Tell")
    desktop.wait_for_longer("Tom")
    expect(desktop.alert).to_have_count(0)
    expect(desktop.prompt).not_to_have_attribute("aria-invalid", "true")


def test_a_visitor_who_leaves_frees_the_slot(browser, server):
    """Eight stories fill the page. When one visitor closes it and one reloads it, the waiting stories begin."""
    with ExitStack() as stack:
        others = ["endless", "Tom", 4000, 0.8, 0, 1, 0, 1, 1, 1]
        for _ in range(7):
            story = stack.enter_context(server.call("tell", json.dumps({"data": others})))
            assert any(line.startswith(b"data: [") and b'"ahead": 0' in line for line in story)
        link = "#model=endless&prompt={}&length=4000&seed=1"
        teller, *waiting = (
            Reader(stack.enter_context(browser.new_page())).open(server.url, link.format(name))
            for name in ("Tom", "Ann", "Sue")
        )
        for n, reader in enumerate(waiting, 1):
            expect(reader.about).to_have_text(f"Waiting. Stories that come first: {n}.")
        teller.page.close()
        waiting[0].wait_for_longer("Ann")
        expect(waiting[1].about).to_have_text("Waiting. Stories that come first: 1.")
        waiting[0].page.goto(server.url)
        waiting[1].wait_for_longer("Sue")


def test_two_visitors_tell_apart(browser, server):
    with visit(browser, server.url) as first, visit(browser, server.url) as second:
        tell_long(first, "A cat")
        tell_long(second, "A dog")
        assert first.wait_for_longer("A cat") and second.wait_for_longer("A dog")
        for reader in (first, second):
            reader.press("Stop")
            reader.wait_until_told()
        assert "dog" not in first.story.text_content() and "cat" not in second.story.text_content()


@pytest.mark.parametrize(
    ("locale", "answer", "said"),
    [
        (
            "en",
            (503, "Queue is full. Max size is 32 and size is 32."),
            "The queue is full, because many people are asking at once: try",
        ),
        (
            "de",
            (503, "Queue is full. Max size is 32 and size is 32."),
            "Die Warteschlange ist voll, weil gerade viele",
        ),
        ("en", (400, "one line of the server's"), "one line of the server's"),
    ],
)
def test_gradio_s_toasts_are_shown_in_place_instead(browser, server, locale, answer, said):
    status, detail = answer
    with visit(browser, server.url, locale=locale) as reader:
        page = reader.page
        page.locator("#prompt textarea").fill("Tom")
        page.locator("#tell").click()
        page.wait_for_function("location.hash.includes('seed=')")
        story, link = page.locator("#story article").text_content(), page.url
        page.route("**/queue/join*", lambda route: route.fulfill(status=status, json={"detail": detail}))
        page.locator("#tell").click()
        expect(reader.alert).to_contain_text(said)
        assert (page.locator("#story article").text_content(), page.url) == (story, link)
        expect(page.get_by_test_id("toast-body")).to_have_count(0)
        expect(page.locator("#story").get_by_text("Error", exact=True).filter(visible=True)).to_have_count(0)
        reader.troubles.clear()  # the browser logs such answers
        page.unroute("**/queue/join*")
        page.locator("#tell").click(delay=100)  # as slowly as a hand: the button must not move away meanwhile
        expect(reader.alert).to_have_count(0)
        page.wait_for_function("link => location.href !== link && location.hash.includes('seed=')", arg=link)


def test_a_failure_in_another_tab_does_not_stop_a_story(desktop):
    """Whether the visitor is still in that tab, or back in the tab of the story."""
    told = tell_long(desktop, "A cat")
    full = {"status": 503, "json": {"detail": "Queue is full. Max size is 32 and size is 32."}}
    asked = []
    desktop.page.route("**/queue/join*", lambda route: asked.append(route))

    def refuse():
        while not asked:
            desktop.page.wait_for_timeout(10)
        asked.pop().fulfill(**full)

    desktop.enter("Look inside")  # this requests the colours of the story
    refuse()
    expect(desktop.alert).to_contain_text("The queue is full")
    desktop.press("Colour this text")
    desktop.enter("Tell")
    expect(desktop.alert).to_have_count(0)
    refuse()
    expect(desktop.alert).to_contain_text("The queue is full")
    assert desktop.page.evaluate("storyteller.telling") is True
    desktop.page.unroute("**/queue/join*")
    desktop.troubles.clear()  # the browser logs such answers
    desktop.press("Stop")
    assert desktop.wait_until_told().startswith(told)


@contextmanager
def blog(folder, frame):
    """A page of another site, with our page in a frame: to Chromium, localhost and 127.0.0.1 are different sites."""
    (folder / "index.html").write_text(f'<!doctype html><iframe src="{frame}" width="800" height="700"></iframe>')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as blog:
        Thread(target=blog.serve_forever, daemon=True).start()
        yield f"http://localhost:{blog.server_port}/"
        blog.shutdown()


def test_it_tells_in_a_frame_that_is_denied_storage(browser, server, tmp_path):
    with blog(tmp_path, server.url) as url, closing(browser.new_page()) as page:
        page.goto(url)
        framed = Reader(page.frames[1])
        for prompt in ("Ann", "Tom"):
            framed.prompt.fill(prompt)
            framed.press("Tell")
            framed.wait_for_longer(prompt)
            framed.wait_until_told()
        framed.press("Stories of this visit ▼")
        kept = framed.page.get_by_role("listitem").get_by_role("button")
        expect(kept).to_have_count(2)
        expect(kept.nth(1)).to_contain_text("Ann")


def test_without_a_model_the_page_says_how_to_train_one(browser, tmp_path):
    save_broken(tmp_path / "models" / "broken")
    with serve(tmp_path, tmp_path / "models") as server, visit(browser, server.url) as reader:
        expect(reader.page.get_by_role("heading", name="No model yet")).to_be_visible()
        expect(reader.page.get_by_text('make train ARGS="--preset pocket')).to_be_visible()
        expect(reader.page.get_by_role("textbox", name="Models that were skipped")).to_be_visible()
