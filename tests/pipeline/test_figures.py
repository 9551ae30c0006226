"""Figures clip no text and draw no text over another, for any model and small data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from pipeline.config.params import Top
from pipeline.data.tensors import Examples
from pipeline.figures.curves import learning_curves, learning_curves_of_runs, nll_by_samples
from pipeline.figures.decodings import decoding_figures, image_rows, samples
from pipeline.figures.grids import as_images
from pipeline.figures.latent import codes, kl_per_dimension, latent_plane, scatter
from pipeline.figures.style import figure
from pipeline.models.codes import EncodedTestSet, encode
from pipeline.models.kinds import build_model
from pipeline.models.metadata import DataInfo, ModelMetadata
from pipeline.studies.estimators import estimators, estimators_figure
from pipeline.studies.rate_distortion import draw
from pipeline.studies.recipe_figures import manifolds, side_by_side
from tests.plain import plain_params

Texts = dict[Text, Bbox]
NAMES = list("0123456789")
KINDS: dict[str, dict[str, Any]] = {
    "twenty dimensions": {"latent_dim": 20},
    "two dimensions, twelve images of three classes": {
        "latent_dim": 2,
        "count": 12,
        "names": ["cat", "dog", "a very long name"],
    },
    "one dimension, in colour, without labels": {"latent_dim": 1, "shape": (3, 8, 8), "names": []},
    "an autoencoder of many classes": {"latent_dim": 64, "posterior": "deterministic", "names": [f"c{i}" for i in range(39)]},
    "two layers": {"latent_dim": 2, "top": Top(hidden=[], latent_dim=3), "count": 20},
    "given the class": {
        "latent_dim": 2,
        "condition": "label",
        "prior": "label",
        "names": ["$a$", "b", "a very long name" * 3],
    },
    "an autoencoder's plane, wide images": {"latent_dim": 2, "posterior": "deterministic", "shape": (8, 24), "count": 3},
}


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Texts:
    """Where each text was last drawn, as fractions of its canvas."""
    drawn: Texts = {}
    draw_text = Text.draw

    def record(self: Text, renderer: RendererBase, *args: Any, **kwargs: Any) -> None:
        draw_text(self, renderer, *args, **kwargs)
        if self.get_visible() and self.get_text().strip():
            drawn[self] = self.get_window_extent(renderer)

    monkeypatch.setattr(Text, "draw", record)
    return drawn


@pytest.fixture
def legible(tmp_path: Path, texts: Texts) -> Iterator[Path]:
    """A folder for figures, whose texts must not overlap, and in which nothing may touch the edge."""
    yield tmp_path
    figures = list(tmp_path.rglob("*.png"))
    assert figures
    for path in figures:
        picture = imread(path)[..., :3]
        assert all((edge == 1).all() for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1])), path.name
    boxes = list(texts.items())
    for i, (one, box) in enumerate(boxes):
        for other, another in boxes[:i]:
            assert one.figure is not other.figure or not box.overlaps(another), (one.get_text(), other.get_text())


def encoded(
    latent_dim: int, count: int = 200, shape: tuple[int, ...] = (8, 8), names: list[str] = NAMES, **changes: Any
) -> EncodedTestSet:
    """Random images as a test set, and their codes by an untrained model."""
    torch.manual_seed(0)
    params = plain_params(hidden=[16], latent_dim=latent_dim, **changes)
    pixels = torch.randint(0, 256, (count, math.prod(shape)), dtype=torch.uint8)
    data = DataInfo(source="noise", classes=names, values="grey", counts={}, sha256={})
    model = build_model(shape, params.model, len(names))
    metadata = ModelMetadata(image_shape=[*shape], params=params, data=data, versions={})
    examples = Examples(pixels, torch.arange(count) % len(names) if names else None)
    return EncodedTestSet(model, metadata, examples, encode(model, examples)[0])


def write_curves(folder: Path, quantities: list[str], epochs: int) -> None:
    for split in ("train", "validation"):
        (folder / "plots/metrics" / split).mkdir(parents=True)
        for name in quantities:
            curve = pd.DataFrame({"step": range(epochs), name: np.linspace(-1234.5, -1230, epochs)})
            curve.to_csv(folder / f"plots/metrics/{split}/{name}.tsv", sep="\t", index=False)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_figures_of_every_kind_of_model_are_legible(legible: Path, kind: dict[str, Any]) -> None:
    test = encoded(**kind)
    dim = test.model.latent_dim
    latent_plane(legible / "latent.png", test.mu, test.labels, test.classes)
    decoding_figures(test, test.metadata.params, list(range(dim))[-3:], legible)
    write_curves(legible, ["distortion"] if test.model.is_deterministic else ["elbo", "distortion", "rate"], epochs=dim)
    learning_curves(legible, legible)
    kl = np.linspace(2, 0, dim)
    kl_per_dimension(pd.DataFrame({"dimension": range(dim), "kl": kl, "active": kl > 0.5}), legible / "kl.png")
    steps = np.array([1, 2, 5, 10, 20, 50][: max(1, dim)])
    nll_by_samples(pd.DataFrame({"samples": steps, "nll": 12345 + 1 / steps, "standard_error": 0.1}), legible / "nll.png")


def curve(elbo: list[float]) -> dict[str, pd.DataFrame]:
    """The curves of a run, with one quantity."""
    return {"elbo": pd.DataFrame({"step": range(len(elbo)), "elbo": elbo})}


STUDIES: dict[str, Callable[[Path, EncodedTestSet], None]] = {
    "runs": lambda path, test: learning_curves_of_runs(
        [(f"run-{i}-of-seven-tried", [curve([-3.0, -2.0, -1.5 - i])] * i) for i in range(1, 8)], path
    ),
    "runs of one epoch, and a longer": lambda path, test: learning_curves_of_runs(
        [("one", [curve([-3.0])]), ("five seeds", [curve([-3.0 - i]) for i in range(5)]), ("longer", [curve([-9.0, -1.0])])],
        path,
    ),
    "rows": lambda path, test: image_rows(path, "", {"E[x|z]": as_images(test.model, test.pixels[:2] / 255)}),
    "samples": lambda path, test: samples(test.model, 3, 0, test.mu.device, path),
    "codes": lambda path, test: codes(path, test.mu, test.labels, len(test.classes)),
    "gaps": lambda path, test: side_by_side(path, "Codes, and between them", {"one": test, "two": test}, "gaps"),
    "prior": lambda path, test: side_by_side(path, "Codes, and samples", {"one": test}, "prior"),
    "manifolds": lambda path, test: manifolds(path, {"aevb_mlp_2d": test, "keras_conv_2d": test}),
    "estimators": lambda path, test: estimators_figure(path, estimators(test.model, test.pixels[:2])),
    "rate_distortion": lambda path, test: draw(
        pd.DataFrame(
            {"beta": [0.5, 1, 4], "else": "", "rate": [30, 20, 5], "distortion": [70, 79, 120], "elbo": [-100, -99, -125]}
        ),
        path,
    ),
}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_figures_of_studies_are_legible(legible: Path, study: Callable[[Path, EncodedTestSet], None]) -> None:
    study(legible / "study.png", encoded(2))


def test_curves_of_several_seeds_show_their_mean_and_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Axes] = []
    monkeypatch.setattr("pipeline.figures.curves.frame", lambda axes, values: drawn.append(axes))
    alone, seeds = [curve([-9.0, -8.0])], [curve([-4.0, -3.0]), curve([-2.0, -2.5]), curve([-3.0, -2.0])]
    learning_curves_of_runs([("alone", alone), ("seeds", seeds)], tmp_path / "x.png")
    (axes,) = drawn
    assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == [[-9.0, -8.0], [-3.0, -2.5]]
    (band,) = axes.collections
    assert {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices).tolist()} == {(1, -4), (2, -3), (1, -2), (2, -2)}


def test_a_text_wider_than_its_figure_is_not_clipped(legible: Path) -> None:
    image_rows(
        legible / "x.png", "A title much longer than the image below it " * 2, {"dimension 15": np.ones((1, 8, 8), np.float32)}
    )


def test_colours_cover_the_classes_and_few_points_are_drawn_larger(tmp_path: Path) -> None:
    with figure(tmp_path / "x.png", width=3, height=3) as fig:
        axes = fig.subplots()
        few, many = (
            scatter(axes, np.random.default_rng(0).normal(size=(count, 2)), np.arange(count, dtype=np.uint16) % 3, 3)
            for count in (12, 12_000)
        )
        assert few.get_clim() == (-0.5, 2.5)
        assert few.get_sizes()[0] >= 10 * many.get_sizes()[0]
