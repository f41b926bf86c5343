"""Takes the README's pictures of the page: in Chromium, with the models of artifacts/, always with the same story."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import expect
from reading import Reader, chromium, visit
from serving import ROOT, serve

LINK = "#prompt=Once+upon+a+time%2C+there+was+a+little&seed=7&drafts=5&beams=3"
PICTURES = {
    "page-light": ("desktop", "light", "Tell"),
    "page-dark": ("desktop", "dark", "Tell"),
    "page-phone": ("phone", "light", "Tell"),
    "page-look": ("desktop", "light", "Look inside"),
    "page-compare": ("desktop", "light", "Compare"),
}
LIMIT = 300_000  # bytes


def prepare(reader: Reader, tab: str) -> None:
    """Makes the tab show an example."""
    reader.wait_until_told()
    reader.enter(tab)
    if tab == "Look inside":
        reader.page.get_by_role("listbox").get_by_role("option").nth(42).click()
        expect(reader.page.get_by_role("caption")).to_be_visible()
    if tab == "Compare":
        reader.press("Compare")
        for card in reader.page.locator("article.card").all():
            expect(card.locator(".told")).not_to_be_empty()
            expect(card).to_have_attribute("aria-busy", "false")
    reader.page.mouse.move(0, 0)
    reader.page.evaluate("scrollTo(0, 0)")
    reader.page.wait_for_timeout(500)  # until fading has finished


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as home,
        serve(Path(home), ROOT / "artifacts", torch=False) as server,
        chromium() as browser,
    ):
        for name, (size, scheme, tab) in PICTURES.items():
            with visit(browser, server.url, LINK, size=size, color_scheme=scheme) as reader:
                prepare(reader, tab)
                path = ROOT / "docs" / f"{name}.png"
                reader.page.screenshot(path=path)
                if path.stat().st_size > LIMIT:
                    raise SystemExit(f"{path} has {path.stat().st_size:,} bytes; the limit is {LIMIT:,}")


if __name__ == "__main__":
    main()
