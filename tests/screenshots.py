"""Takes the pictures of the README: the page in Chromium, with the models of artifacts/, telling a story."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from serving import CHROMIUM_FLAGS, CHROMIUM_MISSING, ROOT, find_chromium, serve

PICTURES = {
    "page-light": dict(viewport={"width": 1280, "height": 800}, color_scheme="light"),
    "page-dark": dict(viewport={"width": 1280, "height": 800}, color_scheme="dark"),
    "page-phone": dict(viewport={"width": 360, "height": 780}, color_scheme="light"),
}


def tell(page: Page, url: str) -> None:
    """Has the page's best model tell a story, the same each time, to its end."""
    page.goto(url)
    page.get_by_role("textbox", name="How does the story begin?").fill("Once upon a time, there was a little")
    more = page.get_by_role("button", name="More settings")
    more.click()
    page.get_by_label("Seed").fill("7")
    more.click()
    page.get_by_role("button", name="Tell", exact=True).click()
    for state in (":not(.hide)", ".hide"):  # Gradio's sign that the story runs, and that it is over
        page.wait_for_selector(f"#story [data-testid=status-tracker]{state}", state="attached")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)


def main() -> None:
    path = find_chromium()
    if path is None:
        raise SystemExit(CHROMIUM_MISSING)
    with (
        tempfile.TemporaryDirectory() as home,
        serve(Path(home), ROOT / "artifacts") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        for name, settings in PICTURES.items():
            page = browser.new_page(**settings)
            tell(page, server.url)
            page.screenshot(path=ROOT / "docs" / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
