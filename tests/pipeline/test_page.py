"""The page in a browser, without a network: headless Chromium, driven as a user would."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.figures.style import figure
from pipeline.models.codes import EncodedTestSet, encode
from pipeline.models.metadata import DataInfo, ModelMetadata
from pipeline.models.vae import VAE
from pipeline.report.page import write_page
from tests.pipeline.browser import CHROMIUM, DESKTOP, PHONE, barriers, launched
from tests.pipeline.browser import opened as opened_page
from tests.plain import plain_params

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH (Debian: apt install chromium)")
SHAPE, COUNT = (8, 6), 30
SCREENS = pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def page_of(
    folder: Path, shape: tuple[int, ...] = SHAPE, recipe: dict[str, Any] | None = None, **changes: Any
) -> tuple[Path, VAE]:
    """The page of an untrained model whose posteriors differ all the same; as if it were a recipe's with such changes."""
    torch.manual_seed(0)
    params = plain_params(**{"hidden": [32], "latent_dim": 4, **changes})
    model = VAE(shape, params.model)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
    pixels = torch.randint(0, 256, (COUNT, math.prod(shape)), dtype=torch.uint8)
    dimensions = [i for i in (1, 0, *range(2, 20)) if i < model.latent_dim]
    table = pd.DataFrame({"dimension": dimensions, "active": [i != 3 for i in dimensions], "kl": 1.0})
    quantity = "distortion" if model.is_deterministic else "elbo"
    report = pd.DataFrame([[-99.5, 0.25, "nats", "-(distortion < rate)"]], index=[quantity])
    report.columns = pd.Index(["value", "standard_error", "unit", "definition"])
    with figure(folder / "samples.png", width=11, height=2) as fig:
        fig.subplots()
    path = folder / "index.html"
    classes = [*map(str, range(9)), "</script><!--"]
    counts = {"train": 20_000, "test": COUNT}
    data = DataInfo(source="<mnist>", classes=classes, values="grey", counts=counts, sha256={"train_images.npy": "0"})
    metadata = ModelMetadata(image_shape=[*shape], params=params, data=data, versions={"Python": "3"})
    test = EncodedTestSet(model, metadata, pixels, encode(model, pixels)[0], np.arange(COUNT, dtype=np.uint8) % 10)
    write_page(path, test, table, report, folder, seed=1, changes=recipe)
    return path, model


def opened(browser: Any, path: Path, **context: Any) -> Any:
    """The page, ready."""
    page = opened_page(browser, path, **context)
    page.wait_for_selector("body[data-ready]")
    return page


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of a small model, without troubles to the end of the test."""
    page = opened(browser, page_of(tmp_path)[0])
    yield page
    assert page.troubles == []


MODELS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "perceptron": (SHAPE, {}),
    "tanh": (SHAPE, {"activation": "tanh"}),
    "convolutions": ((7, 9), {"conv": [[4, 2], [5, 1]]}),
    "colour": ((3, 8, 8), {"conv": [[4, 2]], "likelihood": "gaussian", "decoder_sigma": 0.3}),
    "grey_levels": (SHAPE, {"likelihood": "categorical", "levels": 5}),
    "autoencoder": (SHAPE, {"posterior": "deterministic"}),
    "softplus": (SHAPE, {"scale": "softplus", "latent_dim": 2}),
    "one_dimension": (SHAPE, {"latent_dim": 1}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_browser_decodes_a_known_z_to_pytorchs_image_within_the_stated_error(
    browser: Any, tmp_path: Path, name: str
) -> None:
    shape, changes = MODELS[name]
    path, model = page_of(tmp_path, shape, **changes)
    page = opened(browser, path)
    stated = page.evaluate("MODEL.error")
    assert 0 < stated < 0.01
    # Halves themselves, so that the script is held to the weights' rounding alone.
    z = torch.randn(5, model.latent_dim).half().float()
    found = torch.tensor([page.evaluate("z => Array.from(decode(z))", row) for row in z.tolist()])
    with torch.no_grad():
        exact = model.likelihood.mean(model.decode(z))
    assert (found - exact).abs().max().item() <= 2 * stated
    for p in model.decoder.parameters():
        p.data = p.data.half().float()
    with torch.no_grad():
        torch.testing.assert_close(found, model.likelihood.mean(model.decode(z)), atol=1e-5, rtol=1e-5)
    assert page.troubles == []


def test_the_first_screen_says_what_the_run_is_and_what_it_found(browser: Any, tmp_path: Path) -> None:
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


def test_of_an_autoencoder_it_says_neither_elbo_nor_posterior(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, page_of(tmp_path, posterior="deterministic")[0])
    assert page.locator("dt").all_inner_texts() == ["Data", "Distortion", "Code", "Parameters", "Seed"]


@pytest.mark.parametrize(("count", "more"), [(1, ""), (6, ""), (8, ", and 2 more")])
def test_a_recipe_is_known_by_what_it_changes(browser: Any, tmp_path: Path, count: int, more: str) -> None:
    page = opened(browser, page_of(tmp_path, recipe={f"model.key{i}": [i] for i in range(count)})[0])
    named = ", ".join(f"model.key{i} [{i}]" for i in range(min(count, 6)))
    assert page.text_content("dt:text('Parameters') + dd") == f"params.yaml with {named}{more}"


def test_it_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    pages = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        pages.append(page_of(folder)[0].read_bytes())
    assert pages[0] == pages[1]


def within_screen(page: Any, element: Any) -> bool:
    box, screen = element.bounding_box(), page.viewport_size
    start, end = (box["x"], box["y"]), (box["x"] + box["width"], box["y"] + box["height"])
    return min(start) >= 0 and bool(end[0] <= screen["width"] and end[1] <= screen["height"])


@SCREENS
def test_plane_and_decoded_image_are_in_sight_while_either_the_plane_or_a_slider_moves_the_point(
    browser: Any, tmp_path: Path, screen: dict[str, int]
) -> None:
    page = opened(browser, page_of(tmp_path, latent_dim=20)[0], viewport=screen, has_touch=True)
    assert page.locator("#sliders input").count() == 17
    for touched in ("#plane", "#z2", "#z10", "#z19"):
        before = page.evaluate("document.getElementById('decoded').toDataURL()")
        page.tap(touched, position={"x": 40, "y": 8})
        assert page.evaluate("document.getElementById('decoded').toDataURL()") != before
        for seen in ("#plane", "#decoded", touched):
            assert within_screen(page, page.locator(seen)), (touched, seen)
    page.evaluate("scrollTo(0, 0)")
    for focused in ("#z2", "#z19"):  # by keyboard, not below what stays in sight
        page.focus(focused)
        on_top = "id => { const box = document.getElementById(id).getBoundingClientRect();"
        on_top += "return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).id; }"
        assert page.evaluate(on_top, focused[1:]) == focused[1:]


@SCREENS
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it_on_any_screen(browser: Any, tmp_path: Path, screen: dict[str, int], scheme: str) -> None:
    page = opened(browser, page_of(tmp_path, latent_dim=20)[0], viewport=screen, color_scheme=scheme)
    assert barriers(page) == []
    page.click("#plane")
    page.click("#legend button")
    assert barriers(page) == []


def test_on_a_phone_tables_and_figures_scroll_in_themselves_by_keyboard_too_at_a_legible_size(
    browser: Any, tmp_path: Path
) -> None:
    page = opened(browser, page_of(tmp_path)[0], viewport=PHONE)
    figure = page.locator("figure img")
    assert figure.bounding_box()["width"] >= 0.54 * figure.evaluate("image => image.naturalWidth")
    for region in (page.locator(".scroll:has(img)"), page.locator(".scroll:has(th)").first):
        assert region.evaluate("region => region.clientWidth < region.scrollWidth && region.clientWidth <= 390")
        region.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_a_class_is_shown_alone_without_telling_colours_apart(page: Any) -> None:
    def plane() -> Any:
        return page.evaluate("document.getElementById('plane').toDataURL()")

    every = plane()
    for name in ("3", "7"):
        page.focus(f"#legend button:text('{name}')")
        page.keyboard.press("Enter")
        assert page.locator("#legend button[aria-pressed='true']").all_inner_texts() == [name]
        assert plane() != every
        for x in (50, 100, 300):
            page.click("#plane", position={"x": x, "y": x})
            assert f", class {name}:" in page.text_content("#terms")
    page.reload()
    page.hover("#legend button:text('3')")
    assert plane() != every
    page.mouse.move(0, 0)
    assert plane() == every


def test_moving_the_pointer_decodes_the_point_below_it(page: Any) -> None:
    box = page.locator("#plane").bounding_box()
    seen = []
    for share in (0.25, 0.75):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
        seen.append((page.text_content("#where"), page.evaluate("document.getElementById('decoded').toDataURL()")))
    span = page.evaluate("MODEL.span")
    assert seen[0][0] == f"z[1] = {-span / 2:.2f}, z[0] = 0.00"
    assert seen[1][0] == f"z[1] = {span / 2:.2f}, z[0] = 0.00"
    assert seen[0][1] != seen[1][1]


def test_a_click_shows_the_nearest_test_image_its_posterior_and_what_it_costs(page: Any) -> None:
    assert not page.is_visible("#chosen")
    page.click("#plane")
    assert page.is_visible("#chosen")
    found = page.text_content("#terms")
    assert found.startswith("Test image ")
    assert "ELBO" in found
    numbers = re.findall(r"[-−]?[\d.]+", found.split("ELBO")[1])
    elbo, distortion, rate = (float(number.replace("−", "-")) for number in numbers)
    assert elbo == pytest.approx(-(distortion + rate), abs=0.11)
    assert page.evaluate("document.getElementById('posterior').toDataURL().length") > 300


def test_keys_move_the_point_and_enter_shows_an_image(page: Any) -> None:
    page.focus("#plane")
    for key in ("ArrowRight", "ArrowUp", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    span = page.evaluate("MODEL.span")
    assert page.text_content("#where") == f"z[1] = {0.08 * span:.2f}, z[0] = {0.2 * span:.2f}"
    page.keyboard.press("Enter")
    assert page.is_visible("#chosen")
    page.fill("#z2", "1.5")
    assert page.text_content("#z2 + span") == "1.50"
    page.click("#origin")
    assert page.text_content("#z2 + span") == "0.00"


def test_a_finger_does_what_a_pointer_does_on_a_small_screen(browser: Any, tmp_path: Path) -> None:
    path, _ = page_of(tmp_path)
    page = opened(browser, path, has_touch=True, is_mobile=True, viewport={"width": 380, "height": 700})
    before = page.text_content("#where")
    page.tap("#plane", position={"x": 60, "y": 60})
    assert page.text_content("#where") != before
    assert page.is_visible("#chosen")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.troubles == []


def test_it_is_dark_where_the_reader_likes_it_dark(browser: Any, tmp_path: Path) -> None:
    path, _ = page_of(tmp_path)
    colours = []
    for scheme in ("light", "dark"):
        page = opened(browser, path, color_scheme=scheme)
        colours.append(page.evaluate("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"))
    light, dark = colours
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert dark[1] != light[1]


def test_what_comes_from_outside_is_text_and_not_markup(page: Any) -> None:
    assert page.text_content("dd:has-text('mnist')") == "<mnist>: 20,000 train, 30 test images"
    assert "-(distortion < rate)" in page.text_content("table")
    assert page.evaluate("document.images.length") == 1
    assert page.evaluate("Array.from(document.images).every(image => image.naturalWidth > 0)")


def test_of_the_default_model_it_is_under_five_megabytes(tmp_path: Path) -> None:
    path, _ = page_of(tmp_path, (28, 28), hidden=[500, 500], latent_dim=20)
    # The figures, which a real run adds, are under a megabyte, and random images as large as a thousand digits.
    assert path.stat().st_size < 4e6
    assert json.loads(path.read_text(encoding="utf-8").split("const MODEL = ")[1].split(";</script>")[0])["latent_dim"] == 20
