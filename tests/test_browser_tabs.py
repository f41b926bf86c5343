"""The other tabs in a real Chromium, with the models of artifacts/ and without PyTorch; axe checks every tab."""

from __future__ import annotations

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, expect
from reading import SIZES, visit
from serving import ROOT, save_broken, save_tiny, serve

from model.sampling import USUAL

TABS = ("Tell", "Look inside", "Compare", "Training")
TEXT = "Once upon a time, there was a little girl"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("tabs"), ROOT / "artifacts", torch=False) as server:
        yield server
        assert server.complaints() == []


@pytest.fixture
def desktop(browser, server):
    with visit(browser, server.url) as reader:
        yield reader


def colour(reader, text=TEXT) -> Locator:
    """Colours a text; returns its characters."""
    reader.enter("Look inside")
    reader.fill(reader.page.get_by_role("textbox", name="Text to look into"), text)
    reader.press("Colour this text")
    options = reader.page.get_by_role("listbox").get_by_role("option")
    expect(options).to_have_count(len(text) + 1)
    return options


def metrics_of(name: str) -> dict:
    return json.loads((ROOT / "artifacts" / name / "metrics.json").read_text())


def shares(reader) -> list[tuple[str, str]]:
    """The percentages of the bars, before and after the settings."""
    rows = reader.page.get_by_role("table").get_by_role("row").all()[1:]
    return [tuple(row.get_by_role("cell").all_text_contents()) for row in rows]


def test_the_story_is_coloured_with_a_legend_and_values(desktop):
    desktop.set("Length, in characters", 300)
    desktop.prompt.fill(TEXT)
    desktop.press("Tell")
    story = desktop.wait_until_told()
    desktop.enter("Look inside")
    options = desktop.page.get_by_role("listbox").get_by_role("option")
    expect(options).to_have_count(len(story) + 1)
    expect(desktop.page.get_by_text("Bits of surprise per character:")).to_be_visible()
    assert re.fullmatch(r"O, [\d.]+ bits, [\d.]+% likely", options.first.get_attribute("aria-label"))
    assert options.first.get_attribute("title") == options.first.get_attribute("aria-label")
    assert len({option.get_attribute("class") for option in options.all()[:60]}) > 2
    status = desktop.page.get_by_role("status").filter(has_text="bits per character")
    bits = metrics_of("storyteller")["bits_per_character"]
    average = re.escape(f"the average of storyteller on stories that it had not seen is {bits:.2f}.")
    expect(status).to_have_text(re.compile(rf"[\d.]+ bits per character over \d+ characters; {average}"))
    expect(desktop.page.get_by_text("Attention")).to_have_count(0)  # it needs PyTorch, which this page does not have


def test_a_story_that_its_model_has_ended_goes_on_in_a_new_paragraph(browser, server, desktop):
    desktop.prompt.fill(TEXT)
    desktop.set_seed(1)
    desktop.set("Drafts", 1)
    desktop.set("Beams", 1)
    desktop.set("Length, in characters", 4000)
    desktop.press("Tell")
    story = desktop.wait_until_told()
    expect(desktop.about).to_contain_text("The model ended the story here.")
    # As a step of a link, so that the seed is fixed: with some seeds the model writes only "The end."
    desktop.page.evaluate("storyteller.coming = [['storyteller', 60, 0.5, 0, 1, 0.02, 3, 1, 1]]")
    desktop.press("Continue")
    desktop.wait_for_longer(f"{story}\n")
    desktop.page.wait_for_function("location.hash.includes('then=')")
    longer = desktop.story.text_content()
    assert len(longer) > len(story) + 20
    with visit(browser, server.url, desktop.page.url.split("/")[-1]) as other:
        expect(other.story).to_have_text(longer, use_inner_text=False, timeout=20_000)


def test_look_inside_uses_the_model_that_read_the_text(desktop):
    """The model that told a story reads it, and the model of the colours gives the chances, whichever is chosen now."""
    desktop.choose("pocket")
    desktop.set("Length, in characters", 100)
    desktop.prompt.fill(TEXT)
    desktop.press("Tell")
    desktop.wait_until_told()
    desktop.choose("classic")
    desktop.enter("Look inside")
    expect(desktop.page.get_by_text("the average of pocket on stories")).to_be_visible()
    options = desktop.page.get_by_role("listbox").get_by_role("option")
    options.nth(8).click()
    likely = re.search(r"([\d.]+%) likely", options.nth(8).get_attribute("aria-label"))[1]
    expect(desktop.page.get_by_role("row", name=re.compile("stands here"))).to_contain_text(likely)
    box = desktop.page.get_by_role("textbox", name="Text to look into")
    box.fill("My own text.")
    desktop.press("Colour this text")
    expect(desktop.page.get_by_text("the average of classic on stories")).to_be_visible()
    expect(desktop.page.get_by_role("caption")).to_have_count(0)  # it belonged to another text
    desktop.enter("Tell")
    desktop.press("Tell another")
    desktop.wait_until_told()
    desktop.enter("Look inside")
    expect(box).to_have_value("My own text.")


def test_a_character_shows_its_alternatives_and_the_sliders_change_them(desktop):
    options = colour(desktop)
    options.nth(len("Once u")).click()
    expect(desktop.page.get_by_role("caption")).to_have_text("The ten likeliest characters after “Once u”")
    expect(desktop.page.get_by_role("rowheader", name="p (stands here)")).to_be_visible()
    before = shares(desktop)
    assert len(before) == 10
    desktop.set("Temperature", 0)
    expect(desktop.page.get_by_role("row").nth(2).get_by_role("cell").last).to_have_text("0%")
    after = shares(desktop)
    assert [row[0] for row in after] == [row[0] for row in before]
    assert [row[1] for row in after] == ["100%"] + ["0%"] * 9
    options.last.click()
    expect(desktop.page.get_by_role("caption")).to_contain_text("a little girl”")


def test_bad_text_is_refused_in_place(desktop):
    desktop.enter("Look inside")
    box = desktop.page.get_by_role("textbox", name="Text to look into")
    for text, refusal in (("", "text has no character that this model knows"), ("a" * 4001, "text has 4,001")):
        desktop.fill(box, text)
        desktop.press("Colour this text")
        expect(desktop.alert).to_contain_text(refusal)
        expect(box).to_have_attribute("aria-invalid", "true")
        expect(box).to_have_value(text)


def test_every_model_tells_from_one_prompt_and_seed(desktop):
    desktop.set("Length, in characters", 200)
    desktop.enter("Compare")
    desktop.fill(desktop.page.get_by_role("textbox", name="Prompt for all models"), TEXT)
    desktop.press("Compare")
    cards = desktop.page.get_by_role("article").filter(has=desktop.page.get_by_role("heading", level=2))
    expect(cards).to_have_count(6)
    assert cards.locator("h2").all_text_contents()[:2] == ["classic", "pocket"]
    for name, size in (
        ("pocket", "0.21 M parameters · unsure between 2.0 characters"),
        ("storyteller", "1.22 M parameters · unsure between 1.7 characters"),
        ("shakespeare", "1.22 M parameters · unsure between 4.1 characters of other texts"),
    ):
        card = desktop.page.get_by_role("article", name=name, exact=True)
        expect(card).to_have_attribute("aria-busy", "false")
        expect(card.get_by_role("paragraph")).to_have_text([size, re.compile(r"^\d+ characters · [\d,]+/s$")])
        expect(card.locator(".given")).to_have_text(TEXT)
    expect(desktop.page.get_by_role("tabpanel").get_by_text(re.compile(r"^Seed: \d+$"))).to_have_count(1)
    for card in cards.all():
        expect(card).to_have_attribute("aria-busy", "false", timeout=20_000)
    desktop.set("Length, in characters", 4000)
    desktop.press("Compare")
    expect(cards.first).to_have_attribute("aria-busy", "true")
    desktop.page.keyboard.press("Escape")
    expect(cards.first).to_have_attribute("aria-busy", "false")
    assert len(cards.first.locator(".told").text_content()) < 4000


def test_compare_says_once_what_is_the_same_for_all(desktop):
    """Which two to compare, and which characters of the prompt are dropped; a card says what is its own."""
    desktop.set("Length, in characters", 60)
    desktop.enter("Compare")
    expect(desktop.page.get_by_text("classic and pocket are of the same size")).to_be_visible()
    desktop.fill(desktop.page.get_by_role("textbox", name="Prompt for all models"), f"{TEXT}☃. {TEXT}.")
    desktop.press("Compare")
    dropped = desktop.page.get_by_text("Dropped, because the model does not know them: ☃")
    expect(dropped).to_have_count(1)
    cut = "longer than this model's context"
    expect(desktop.page.get_by_role("article", name="classic", exact=True)).to_contain_text(cut)
    expect(desktop.page.get_by_role("article", name="storyteller")).to_contain_text("/s")
    expect(desktop.page.get_by_role("article").filter(has_text=cut)).to_have_count(2)


def test_a_comparison_that_waits_says_so(browser, server, desktop):
    with visit(browser, server.url) as other:
        for reader in (desktop, other):
            reader.set("Length, in characters", 4000)
            reader.enter("Compare")
        desktop.press("Compare")
        expect(desktop.page.locator("article.card").first).to_have_attribute("aria-busy", "true")
        other.press("Compare")
        waits = other.page.get_by_text("Waiting. Stories that come first: 1.")
        expect(waits).to_be_visible()
        desktop.press("Stop all")
        expect(waits).to_have_count(0)
        expect(other.page.locator("article.card .told").first).not_to_be_empty()
        other.press("Stop all")


def test_dropped_characters_are_named_above_the_story(desktop):
    desktop.set("Length, in characters", 60)
    desktop.prompt.fill("你好 Tom")
    desktop.press("Tell")
    desktop.wait_until_told()
    note = desktop.page.get_by_text("Dropped, because the model does not know them: 你 好")
    assert note.bounding_box()["y"] < desktop.story.bounding_box()["y"]


def test_dropped_characters_are_named_in_visible_form(desktop):
    desktop.enter("Look inside")
    desktop.fill(desktop.page.get_by_role("textbox", name="Text to look into"), "Tom \x07☃")
    desktop.press("Colour this text")
    expect(desktop.page.get_by_text("Dropped, because the model does not know them: U+0007 ☃")).to_be_visible()


def test_lines_are_about_65_characters_wide(desktop):
    """For the English of the shipped storyteller, in any serif font of this machine."""
    desktop.set("Length, in characters", 600)
    desktop.prompt.fill(TEXT)
    desktop.press("Tell")
    desktop.wait_until_told()
    widths = desktop.page.evaluate(
        """() => {
          const text = document.querySelector("#story .told").firstChild;
          const range = document.createRange();
          const lines = new Map();
          for (let i = 0; i < text.length; i++) {
            range.setStart(text, i);
            range.setEnd(text, i + 1);
            const { top } = range.getBoundingClientRect();
            lines.set(top, (lines.get(top) ?? 0) + 1);
          }
          return [...lines.values()];
        }"""
    )
    assert 58 <= max(widths) <= 75


def test_how_it_was_trained(desktop):
    desktop.enter("Training")
    expect(desktop.page.get_by_role("slider", name="Temperature")).not_to_be_visible()
    curves = desktop.page.get_by_role("img", name=re.compile("^Loss while training, pocket: .* → 0.70$"))
    for kind in ("train", "val"):
        points = re.findall(r"[\d.]+ [\d.]+", curves.locator(f"path.curve.{kind}").get_attribute("d"))
        steps = [float(point.split()[0]) for point in points]
        assert len(steps) > 5 and steps == sorted(steps) and steps[0] > 34 + 300 / 20  # the first twentieth is left out
    pictures = desktop.page.get_by_role("img", name=re.compile("^Loss while training"))
    marks = {tuple(picture.locator("text").all_text_contents()[:-2]) for picture in pictures.all()}
    assert len(marks) == 1 and len(*marks) > 2, marks  # all runs have one scale
    figure = desktop.page.get_by_role("figure").filter(has_text="pocket")
    expect(figure).to_contain_text(f"{metrics_of('pocket')['nats_per_character']:.3f} nats per character on valid.txt")
    desktop.press("The commands that trained them ▼")
    expect(desktop.page.get_by_text(".venv/bin/python -m train --preset classic-onecycle")).to_be_visible()
    for name in ("TinyStories", "Eldan and Li, 2023"):
        link = desktop.page.get_by_role("link", name=name, exact=True)
        expect(link).to_have_attribute("target", "_blank")
        expect(link).to_have_attribute("rel", re.compile("noopener"))


def test_a_run_of_which_little_is_known_is_shown(desktop):
    """Also with the least that an artifact must say, and with the address of its card."""
    draw = """run => {
      const element = document.createElement("div");
      element.append(document.createElement("div"));
      storyteller.views.runs(element, { runs: [run] });
      return element.innerHTML;
    }"""
    least = dict(name="<b>new</b>", parameters=1, nats_per_character=1, evaluated_on="", steps=2, log=[{"step": 2}])
    drawn = desktop.page.evaluate(draw, least)
    assert "<h2>&lt;b&gt;new&lt;/b&gt;</h2>" in drawn and "1.000 nats per character<" in drawn
    assert "NaN" not in drawn and "undefined" not in drawn
    even = {**least, "card": "https://cards", "log": [{"step": 1, "train": 1, "val": 1}, {"step": 2, "train": 1e9}]}
    drawn = desktop.page.evaluate(draw, even)
    assert '<a href="https://cards" target="_blank" rel="noopener">Model card</a>' in drawn and "NaN" not in drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_serious_on_any_tab(browser, server, size, scheme):
    pictures = ROOT / "screenshots"
    with visit(browser, server.url, "#prompt=Tom&length=80&seed=1", size=size, color_scheme=scheme) as reader:
        reader.wait_until_told()
        reader.show_settings()
        reader.press("More settings ▼")
        for tab in TABS:
            reader.enter(tab)
            settings = reader.page.get_by_role("checkbox", name="Model and settings")
            expect(settings).to_be_visible(visible=size == "phone" and tab != "Training")
            if tab == "Look inside":
                reader.page.get_by_role("listbox").get_by_role("option").nth(5).click()
                expect(reader.page.get_by_role("caption")).to_be_visible()
            reader.page.mouse.move(0, 0)
            found = Axe().run(reader.page).response["violations"]
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == [], tab
            assert reader.page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], tab
            reader.page.screenshot(path=pictures / f"{tab.split()[0].lower()}-{size}-{scheme}.png", full_page=True)


def tab_to(page, goal: Locator) -> None:
    """Presses Tab until the goal has the focus."""
    for _ in range(80):
        if goal.count() and goal.evaluate("it => it === document.activeElement"):
            return
        page.keyboard.press("Tab")
    here = page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    pytest.fail(f"the Tab key does not reach {goal}; the focus is on {here}")


def test_the_keyboard_suffices(desktop):
    page = desktop.page
    desktop.set("Length, in characters", 100)
    tab_to(page, desktop.prompt)
    page.keyboard.type("Tom")
    page.keyboard.press("Enter")
    desktop.wait_for_longer("Tom")
    desktop.wait_until_told()
    tab_to(page, page.get_by_role("tab", name="Look inside"))
    page.keyboard.press("Enter")
    options = page.get_by_role("listbox").get_by_role("option")
    expect(options.first).to_be_visible()
    tab_to(page, options.first)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("caption")).to_have_text("The ten likeliest characters after “T”")
    tab_to(page, page.get_by_role("slider", name="Temperature"))
    page.keyboard.press("ArrowRight")
    box = page.get_by_role("spinbutton", name="number input for Temperature")
    expect(box).to_have_value(f"{USUAL.temperature + 0.05:.2f}")


@pytest.mark.parametrize(
    ("locale", "subtitle", "tell", "about"),
    [
        ("de-DE", "Ein kleines Sprachmodell erzählt Geschichten, Zeichen für Zeichen.", "Erzählen", "80 Zeichen"),
        ("hi-IN", "एक छोटा भाषा मॉडल, जो एक-एक अक्षर करके कहानियाँ सुनाता है।", "सुनाओ", "80 अक्षर"),
        ("fr-FR", "A small language model that tells stories, one character at a time.", "Tell", "80 characters"),
    ],
)
def test_the_page_speaks_the_visitor_s_language(browser, server, locale, subtitle, tell, about):
    link = "#prompt=Tom&model=classic&length=80&seed=1"
    with visit(browser, server.url, link, size="phone", locale=locale) as reader:
        expect(reader.page.get_by_role("heading", level=1)).to_have_text("GPT From Scratch")
        expect(reader.page.get_by_text(subtitle)).to_be_visible()
        expect(reader.button(tell)).to_be_visible()
        expect(reader.page.get_by_text(about)).to_be_visible()
        assert reader.page.title() == "GPT From Scratch"


def test_reduced_motion_is_respected(browser, server):
    with visit(browser, server.url, reduced_motion="reduce") as reader:
        colour(reader).first.click()
        bar = reader.page.locator(".bar").first
        expect(bar).to_be_attached()
        assert bar.evaluate("it => getComputedStyle(it).transitionDuration") in ("0s", "1e-06s")


def test_with_one_model_and_with_pytorch(browser, tmp_path):
    """Attention can be shown, Compare says what is missing, and a broken model is named."""
    save_tiny(tmp_path / "models" / "ending", nats=1.0, ends=True, heads=1)
    save_broken(tmp_path / "models" / "broken")
    with serve(tmp_path, tmp_path / "models") as server, visit(browser, server.url) as reader:
        expect(reader.page.get_by_role("textbox", name="Models that were skipped")).to_have_value(
            re.compile("^broken: ")
        )
        reader.enter("Compare")
        expect(reader.page.get_by_text("There is one model here.")).to_be_visible()
        reader.enter("Training")
        reader.press("The commands that trained them ▼")
        expect(reader.page.get_by_text("train <b>1</b>")).to_be_visible()
        expect.set_options(timeout=30_000)  # PyTorch is imported first
        colour(reader, "Tom ran.").nth(4).click()
        reader.press("Attention ▼")
        reader.set("Layer", 2)
        reader.press("Show attention")
        heading = reader.page.get_by_role(
            "heading", name="Where layer 2, head 1 looks to find the character after “Tom ”"
        )
        expect(heading).to_be_visible()
        characters = reader.page.get_by_role("listbox", name=re.compile("^Where layer 2")).get_by_role("option")
        labels = [option.get_attribute("aria-label") for option in characters.all()]
        assert [label.split(",")[0] for label in labels] == ["T", "o", "m", "blank"]
        opening = reader.page.get_by_text("goes to the mark that opens the story").text_content()
        given = [float(re.search(r"([\d.]+)%", text)[1]) for text in [*labels, opening]]
        assert sum(given) == pytest.approx(100, abs=0.5)
        reader.page.get_by_role("listbox", name="How sure").get_by_role("option").nth(6).click()
        expect(reader.page.get_by_role("heading", name=re.compile("after “Tom ra”$"))).to_be_visible()
        colour(reader, "Ann sat.")
        expect(reader.page.get_by_role("heading", name=re.compile("^Where layer 2"))).to_have_count(0)
