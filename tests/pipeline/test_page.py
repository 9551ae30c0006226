"""The page in headless Chromium without network access, used as a reader would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.figures.projections import MIN_CODES
from tests.pipeline.browser import CHROMIUM, DESKTOP, PHONE, barriers
from tests.pipeline.small_page import opened, page_of

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH (Debian: apt install chromium)")
SCREENS = pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])


def test_the_first_screen_shows_the_run_and_its_results(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, page_of(tmp_path)[0], viewport=PHONE)
    assert dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True)) == {
        "Data": "<mnist>: 20,000 train, 30 test images",
        "ELBO": "-99.5 ± 0.25 nats per image",
        "Posterior": "3 of 4 dimensions are active and carry 75.0% of the rate, 4 nats; 1 is unused.",
        "Parameters": 'beta 1.0, model.likelihood "bernoulli", model.hidden [32], model.latent_dim 4, train.epochs 3',
        "Seed": "1",
    }
    for link in page.locator("nav a").all():
        assert within_screen(page, link)
        assert page.locator(link.get_attribute("href")).is_visible()


def test_the_page_of_an_autoencoder_has_no_elbo_and_no_posterior(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, page_of(tmp_path, posterior="deterministic")[0])
    assert page.locator("dt").all_inner_texts() == ["Data", "Distortion", "Code", "Parameters", "Seed"]


@pytest.mark.parametrize(("count", "more"), [(1, ""), (6, ""), (8, ", and 2 more")])
def test_the_page_of_a_recipe_lists_its_changed_parameters(browser: Any, tmp_path: Path, count: int, more: str) -> None:
    page = opened(browser, page_of(tmp_path, recipe={f"model.key{i}": [i] for i in range(count)})[0])
    named = ", ".join(f"model.key{i} [{i}]" for i in range(min(count, 6)))
    assert page.text_content("dt:text('Parameters') + dd") == f"params.yaml with {named}{more}"


def test_the_page_is_deterministic(tmp_path: Path) -> None:
    pages = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        pages.append(page_of(folder, count=MIN_CODES)[0].read_bytes())
    assert pages[0] == pages[1]


def within_screen(page: Any, element: Any) -> bool:
    box, screen = element.bounding_box(), page.viewport_size
    start, end = (box["x"], box["y"]), (box["x"] + box["width"], box["y"] + box["height"])
    return min(start) >= 0 and bool(end[0] <= screen["width"] and end[1] <= screen["height"])


@SCREENS
def test_plane_and_decoded_image_stay_visible_while_the_point_is_moved(
    browser: Any, tmp_path: Path, screen: dict[str, int]
) -> None:
    page = opened(browser, page_of(tmp_path, count=MIN_CODES, latent_dim=20)[0], viewport=screen, has_touch=True)
    for projection, sliders in (("Two dimensions", 17), ("PCA", 19), ("t-SNE", 19)):
        page.check(f"label:text('{projection}') input")
        assert page.locator("#sliders input:visible").count() == sliders
        for touched in ("#plane", "#z2", "#z10", "#z19"):
            before = page.evaluate("document.getElementById('decoded').toDataURL()")
            page.tap(touched, position={"x": 40, "y": 8})
            assert page.evaluate("document.getElementById('decoded').toDataURL()") != before
            for seen in ("#plane", "#decoded", touched):
                assert within_screen(page, page.locator(seen)), (projection, touched, seen)
    page.evaluate("scrollTo(0, 0)")
    for focused in ("#z2", "#z19"):  # with the keyboard: a focused slider is not covered by the fixed elements
        page.focus(focused)
        on_top = "id => { const box = document.getElementById(id).getBoundingClientRect();"
        on_top += "return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).id; }"
        assert page.evaluate(on_top, focused[1:]) == focused[1:]


@SCREENS
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_on_any_screen(browser: Any, tmp_path: Path, screen: dict[str, int], scheme: str) -> None:
    page = opened(browser, page_of(tmp_path, count=MIN_CODES, latent_dim=20)[0], viewport=screen, color_scheme=scheme)
    assert barriers(page) == []
    page.click("#plane")
    page.click("#legend button")
    for projection in ("PCA", "t-SNE"):
        page.check(f"label:text('{projection}') input")
        assert barriers(page) == []


def test_on_a_phone_numbers_fit_and_figures_scroll_at_a_legible_size_with_the_keyboard_too(
    browser: Any, tmp_path: Path
) -> None:
    page = opened(browser, page_of(tmp_path)[0], viewport=PHONE)
    definition = page.locator("table.report td:has-text('distortion < rate')").bounding_box()
    assert definition["x"] >= 0
    assert definition["x"] + definition["width"] <= PHONE["width"]
    figure, region = page.locator("figure img"), page.locator(".scroll:has(img)")
    assert figure.bounding_box()["width"] >= 0.54 * figure.evaluate("image => image.naturalWidth")
    assert region.evaluate("region => region.clientWidth < region.scrollWidth && region.clientWidth <= 390")
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_the_page_follows_the_preferred_colour_scheme(browser: Any, tmp_path: Path) -> None:
    path, _ = page_of(tmp_path)
    colours = []
    for scheme in ("light", "dark"):
        page = opened(browser, path, color_scheme=scheme)
        colours.append(page.evaluate("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"))
    light, dark = colours
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert dark[1] != light[1]


def test_external_text_is_escaped(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, page_of(tmp_path)[0])
    assert page.text_content("dd:has-text('mnist')") == "<mnist>: 20,000 train, 30 test images"
    assert "-(distortion < rate)" in page.text_content("table")
    assert page.evaluate("document.images.length") == 1
    assert page.evaluate("Array.from(document.images).every(image => image.naturalWidth > 0)")


@pytest.mark.parametrize(
    ("shape", "megabytes", "held"), [((28, 28), 4, 100), ((3, 64, 64), 8.5, 65)], ids=["default", "colour"]
)
def test_the_page_is_under_five_megabytes_by_default_and_under_ten_for_large_colour_images(
    tmp_path: Path, shape: tuple[int, ...], megabytes: float, held: int
) -> None:
    path, _ = page_of(tmp_path, shape, count=100, hidden=[500, 500], latent_dim=20)
    # The figures, which a real run adds, are about a megabyte. Random images are larger than a thousand digits.
    assert path.stat().st_size < 1e6 * megabytes
    text = path.read_text(encoding="utf-8")
    assert json.loads(text.split("const MODEL = ")[1].split(";</script>")[0])["held"] == held
    assert ("of the 65 larger dots" in text) == (held < 100)
