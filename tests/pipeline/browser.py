"""Headless Chromium without network access, to test pages as readers see them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@contextmanager
def launched() -> Iterator[Any]:
    """Launches a browser that blocks all network requests."""
    from playwright.sync_api import sync_playwright  # not on every machine that runs other tests of this folder

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


def opened(browser: Any, path: Path, **context: Any) -> Any:
    """Opens a page, closing the previous one; ``troubles`` lists console messages, errors and requests."""
    for before in browser.contexts:  # a hidden page would keep drawing
        before.close()
    page = browser.new_context(**context).new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url))
    page.troubles = troubles
    page.goto(path.resolve().as_uri())
    return page


def barriers(page: Any) -> list[str]:
    """Returns accessibility problems: serious and critical findings of axe-core, and a page wider than its screen."""
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    found = [
        problem["id"] for problem in Axe().run(page).response["violations"] if problem["impact"] in ("serious", "critical")
    ]
    wide = page.evaluate("document.documentElement.scrollWidth") > page.viewport_size["width"]
    return found + ["wider than the screen"] * wide
