"""The page's latent space in a browser without network access: what it decodes, and what it shows of test images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.figures.projections import MIN_CODES
from pipeline.report import packing
from tests.pipeline.browser import CHROMIUM
from tests.pipeline.small_page import SHAPE, opened, page_of

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH (Debian: apt install chromium)")


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of a small model, which must have no errors until the end of the test."""
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
    "conditional": (SHAPE, {"condition": "label", "prior": "label"}),
    "large": ((7, 9), {"conv": [[4, 2], [5, 1]]}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_browser_decodes_z_like_pytorch_within_the_stated_error(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shape, changes = MODELS[name]
    if large := name == "large":
        monkeypatch.setattr(packing, "HALF_WEIGHTS", 0)
    path, model = page_of(tmp_path, shape, **changes)
    page = opened(browser, path)
    stated = page.evaluate("MODEL.error")
    assert 0 < stated < (0.2 if large else 0.01)
    assert ("7 bits each" if large else "half precision") in page.inner_text("p:has(#error)")
    assert page.locator("[name=projection]").count() == (2 if model.latent_dim > 2 else 0)
    # z in half precision, so that the script's error is that of the rounded weights only.
    z = torch.randn(5, model.latent_dim).half().float()
    labels = torch.tensor([0, 1, 7, 8, 9])
    given = zip(z.tolist(), labels.tolist(), strict=True)
    found = torch.tensor([page.evaluate("([z, label]) => Array.from(decode(z, label))", pair) for pair in given])
    with torch.no_grad():
        exact = model.likelihood.mean(model.decode(z, labels))
    assert (found - exact).abs().max().item() <= 2 * stated
    for p in model.decoder.parameters():
        p.data = packing.as_stored(p.data, large=large)
    with torch.no_grad():
        torch.testing.assert_close(found, model.likelihood.mean(model.decode(z, labels)), atol=1e-5, rtol=1e-5)
    assert page.troubles == []


def test_a_class_can_be_shown_alone_without_relying_on_colour(page: Any) -> None:
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


def test_a_conditional_model_has_a_choice_of_class_and_a_selected_image_sets_its_own(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, page_of(tmp_path, condition="label")[0])

    def decoded() -> Any:
        return page.evaluate("document.getElementById('decoded').toDataURL()")

    first = decoded()
    page.select_option("#class", label="7")
    assert decoded() != first
    page.select_option("#class", label="0")
    assert decoded() == first
    page.click("#plane")
    chosen = page.locator("#class option:checked").inner_text()
    assert f", class {chosen}:" in page.text_content("#terms")
    assert page.troubles == []


def test_moving_the_pointer_decodes_the_point_below_it(page: Any) -> None:
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#plane").bounding_box()
    seen = []
    for share in (0.25, 0.75):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
        seen.append((page.text_content("#where"), page.evaluate("document.getElementById('decoded').toDataURL()")))
    span = page.evaluate("MODEL.span")
    assert seen[0][0] == f"z[1] = {-span / 2:.2f}, z[0] = 0.00"
    assert seen[1][0] == f"z[1] = {span / 2:.2f}, z[0] = 0.00"
    assert seen[0][1] != seen[1][1]


def test_a_click_shows_the_nearest_test_image_with_its_posterior_and_elbo(page: Any) -> None:
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


def test_touch_works_like_a_pointer_on_a_small_screen(browser: Any, tmp_path: Path) -> None:
    path, _ = page_of(tmp_path)
    page = opened(browser, path, has_touch=True, is_mobile=True, viewport={"width": 380, "height": 700})
    before = page.text_content("#where")
    page.tap("#plane", position={"x": 60, "y": 60})
    assert page.text_content("#where") != before
    assert page.is_visible("#chosen")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.troubles == []


def test_the_pca_plane_moves_z_along_it_and_keeps_the_other_components(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, page_of(tmp_path, latent_dim=3)[0])
    axes = page.locator("#across, #up")
    assert axes.all_inner_texts() == ["z[1] →", "↑ z[0]"]

    def z() -> Any:
        return np.array([float(page.text_content(f"#z{d} + span")) for d in range(3)])

    page.click("#plane", position={"x": 90, "y": 300})
    page.focus("[name=projection]")
    page.keyboard.press("ArrowRight")
    assert page.is_checked("label:text('PCA') input")
    assert all(re.fullmatch(r"[↑ ]*PC [12] \(\d+% of variance\)[ →]*", text) for text in axes.all_inner_texts())
    assert "principal components" in page.inner_text("#note")
    before, where = z(), page.text_content("#where")
    origin, u = (np.array(page.evaluate(f"MODEL.planes[1].{name}")) for name in ("origin", "directions"))
    np.testing.assert_allclose(u @ u.T, np.eye(2), atol=1e-5)
    named = [float(text.split(" = ")[1]) for text in where.split(", ")]
    np.testing.assert_allclose(u @ (before - origin), named, atol=0.02)
    box = page.locator("#plane").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.text_content("#where") == "PC 1 = 0.00, PC 2 = 0.00"
    np.testing.assert_allclose(z(), before - u.T @ named, atol=0.02)
    assert np.abs(z() - before).max() > 0.1
    assert page.troubles == []


def test_in_the_t_sne_plane_the_code_of_the_nearest_image_is_decoded(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, page_of(tmp_path, count=MIN_CODES)[0])
    page.check("label:text('t-SNE') input")
    assert page.locator("#across, #up").all_inner_texts() == ["", ""]
    assert "nearest image" in page.inner_text("#note")
    assert page.text_content("#where") == "z is no image's code: not in this plane"
    page.hover("#plane", position={"x": 100, "y": 200})
    image = int(page.text_content("#where").removeprefix("z = μ of test image "))
    hovered = page.evaluate("document.getElementById('decoded').toDataURL()")
    page.click("#plane", position={"x": 100, "y": 200})
    assert page.text_content("#terms").startswith(f"Test image {image}, ")
    assert page.evaluate("document.getElementById('reconstruction').toDataURL()") == hovered
    page.focus("#plane")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#where") not in (f"z = μ of test image {image}", "z is no image's code: not in this plane")
    assert page.troubles == []
