"""The page of `vae compare --html` in a browser without network access."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline import prepare
from pipeline.config.keys import flatten
from pipeline.config.paths import PARAMS, PREPARED
from pipeline.config.plain_yaml import read_yaml
from pipeline.config.validation import load_params
from pipeline.data.prepared import read_manifest
from pipeline.models.serialization import save_model
from pipeline.models.vae import VAE
from pipeline.studies.compare import Comparison
from pipeline.studies.comparison_page import learning_curves, write_comparison
from pipeline.studies.runs import Run
from tests.pipeline.browser import CHROMIUM, DESKTOP, PHONE, barriers, opened

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH (Debian: apt install chromium)")


def run(name: str, beta: float, nll: float, folder: Path, *, trained: bool = True) -> Run:
    """A run whose curves have two epochs and, if ``trained``, with the weights of an untrained model."""
    names = ("elbo", "distortion", "rate")
    curves = {quantity: pd.DataFrame({"step": [0, 1], quantity: [nll + 9, nll]}) for quantity in names}
    params, weights = load_params(PARAMS), None
    if trained:
        folder.mkdir()
        weights = folder / "vae.safetensors"
        torch.manual_seed(round(10 * beta))
        save_model(weights, VAE((28, 28), params.model), params, read_manifest())
    report = pd.DataFrame({"value": {"nll": nll, "elbo": -nll}, "standard_error": 0.3})
    return Run(name, flatten(read_yaml(PARAMS)) | {"beta": beta}, report, weights=weights, curves=curves)


@pytest.fixture(scope="module")
def page(fresh_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison of three runs, one of which has no weights here."""
    folder = Path(shutil.copytree(fresh_workspace, tmp_path_factory.mktemp("compared"), dirs_exist_ok=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.main()
        runs = [
            run("main", 1.0, 96.0, folder / "one"),
            run("lower", 0.5, 95.0, folder / "two"),
            run("<b>gone</b>", 2.0, 99.0, folder / "three", trained=False),
        ]
        write_comparison(folder / "comparison.html", Comparison(runs, {"nll": 0.1, "elbo": 0.1}, 5))
    return folder / "comparison.html"


def test_the_verdict_comes_first_and_pictures_are_side_by_side(browser: Any, page: Path) -> None:
    shown = opened(browser, page, viewport=DESKTOP)
    assert shown.locator("h1 + p").inner_text() == "NLL: best is lower (beta 0.5), 95.00 nats per image"
    assert shown.locator("table").first.locator("tr").nth(1).inner_text().split()[:2] == ["main", "1"]
    first, *headings, last = shown.locator("h2").all_inner_texts()
    assert (first, last) == ("Numbers", "All parameters that differ")
    assert headings == ["Learning curves", "Reconstructions", "Samples", "Latent planes"]
    assert [block.locator("img").count() for block in shown.locator(".beside").all()] == [1, 2, 2, 2]
    tops = [picture.bounding_box()["y"] for picture in shown.locator(".beside").nth(2).locator("figure").all()]
    assert tops[0] == tops[1]
    assert "<b>gone</b>: no pictures: its weights are not here" in shown.inner_text("body")
    assert shown.troubles == []


def test_runs_with_different_seeds_share_a_curve_and_runs_without_curves_are_left_out() -> None:
    runs = [run("main", 1.0, 96.0, Path(), trained=False), run("lower", 0.5, 95.0, Path(), trained=False)]
    runs.append(replace(runs[0], name="again", params=runs[0].params | {"seed": 2}))
    curves = learning_curves(Comparison([*runs, replace(runs[1], params=runs[0].params | {"beta": 9}, curves=None)], {}, 0))
    assert [(label, len(of)) for label, of in curves] == [("main, 2 seeds", 2), ("lower", 1)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_is_accessible_on_any_screen(browser: Any, page: Path, screen: dict[str, int], scheme: str) -> None:
    shown = opened(browser, page, viewport=screen, color_scheme=scheme)
    assert barriers(shown) == []
    for table in shown.locator(".scroll").all():  # the first column stays visible
        table.evaluate("table => table.scrollLeft = 1000")
        assert table.locator("tr:last-child th").bounding_box()["x"] == table.bounding_box()["x"]


def test_without_prepared_images_the_page_has_notes_and_tables_by_group(prepared: Path, browser: Any) -> None:
    runs = [run("one", 1.0, 96.0, prepared / "one"), run("two", 0.5, 95.0, prepared / "two")]
    runs.insert(1, replace(runs[0], name="<three>", params=runs[0].params | {"model.likelihood": "gaussian"}))
    shutil.rmtree(prepared / PREPARED)
    write_comparison(prepared / "comparison.html", Comparison(runs, {}, 0))
    shown = opened(browser, prepared / "comparison.html")
    text = shown.inner_text("body")
    assert text.count("no pictures: data/prepared/manifest.json: missing") == 3
    assert "Learning curves" in text
    assert shown.locator("h3").all_inner_texts() == ["Runs that compare with one", "<three>"]
    tables = shown.locator("h3 + .scroll").all()
    names = [table.locator("tr > :first-child").all_inner_texts() for table in tables]
    assert names == [["run", "one", "two"], ["run", "<three>"]]
