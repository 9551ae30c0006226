"""Draws docs/page.png from the page that `make repro` wrote: python -m tests.pipeline.page_picture. Needs Chromium."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.config.paths import DEFAULT
from pipeline.runtime.files import whole_file
from tests.pipeline.browser import launched, opened

PICTURE = Path("docs/page.png")
WIDTH, HEIGHT = 750, 1080
CHOSEN = (0.65, 0.30)  # the selected point, as fractions of the plane's width and height


def draw_page(browser: Any, page: Path, picture: Path) -> None:
    """Writes a picture of the page in light colours, and beside it in dark colours with another plane; a point is selected."""
    both = Image.new("RGB", (2 * WIDTH, HEIGHT))
    for i, (scheme, plane) in enumerate((("light", "Two dimensions"), ("dark", "t-SNE"))):
        shown = opened(browser, page, color_scheme=scheme, viewport={"width": WIDTH, "height": HEIGHT})
        shown.wait_for_selector("body[data-ready]")
        shown.check(f"label:text('{plane}') input")
        box = shown.locator("#plane").bounding_box()
        shown.mouse.click(box["x"] + CHOSEN[0] * box["width"], box["y"] + CHOSEN[1] * box["height"])
        both.paste(Image.open(io.BytesIO(shown.screenshot())).convert("RGB"), (i * WIDTH, 0))
    with whole_file(picture) as temporary:
        both.save(temporary, optimize=True)


def main() -> None:
    with launched() as browser:
        draw_page(browser, DEFAULT.page, PICTURE)


if __name__ == "__main__":
    main()
