"""The documentation's picture of the page matches the page."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from tests.pipeline.conftest import ROOT


def test_the_picture_of_the_page_has_the_colour_of_each_class() -> None:
    script = (ROOT / "pipeline/report/web/explorer.js").read_text(encoding="utf-8")
    colours = re.findall("#[0-9a-f]{6}", script.split("COLOURS = [")[1].split("]")[0])
    assert len(colours) == 10
    pixels = np.array(Image.open(ROOT / "docs/page.png").convert("RGB")).reshape(-1, 3)
    found = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0).tolist()}
    assert set(colours) <= found
