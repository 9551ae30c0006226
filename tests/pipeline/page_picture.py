"""Makes docs/page.png of the page that `make repro` wrote: python -m tests.pipeline.page_picture. It needs Chromium."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.config.paths import DEFAULT
from pipeline.runtime.files import whole_file

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
PICTURE = Path("docs/page.png")
WIDTH, HEIGHT = 750, 862
CHOSEN = (0.65, 0.30)  # the point of the plane that is decoded, as shares of its width and height


@contextmanager
def launched() -> Iterator[Any]:
    """A browser that asks no network for anything."""
    from playwright.sync_api import sync_playwright  # not on every machine that runs other tests of this folder

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


def draw_page(browser: Any, page: Path, picture: Path) -> None:
    """Writes a picture of a page in light colours, and beside it in dark ones, with a point of the latent plane chosen."""
    both = Image.new("RGB", (2 * WIDTH, HEIGHT))
    for i, scheme in enumerate(("light", "dark")):
        opened = browser.new_context(color_scheme=scheme, viewport={"width": WIDTH, "height": HEIGHT}).new_page()
        opened.goto(page.resolve().as_uri())
        opened.wait_for_selector("body[data-ready]")
        plane = opened.locator("#plane").bounding_box()
        opened.mouse.click(plane["x"] + CHOSEN[0] * plane["width"], plane["y"] + CHOSEN[1] * plane["height"])
        both.paste(Image.open(io.BytesIO(opened.screenshot())).convert("RGB"), (i * WIDTH, 0))
    with whole_file(picture) as temporary:
        both.save(temporary, optimize=True)


def main() -> None:
    with launched() as browser:
        draw_page(browser, DEFAULT.page, PICTURE)


if __name__ == "__main__":
    main()
