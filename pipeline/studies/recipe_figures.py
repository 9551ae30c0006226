"""Draws the figures that need the models of several recipes."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch
from torch import Tensor

from pipeline.config.paths import RECIPES, run_paths
from pipeline.config.validation import load_params
from pipeline.figures.grids import pictures, show, tiled
from pipeline.figures.latent import manifold, scatter
from pipeline.figures.style import figure
from pipeline.models.codes import EncodedTestSet, encode_test_set
from pipeline.runtime.device import choose_device
from pipeline.runtime.files import write_csv
from pipeline.runtime.noise_streams import Stream, stream_key
from pipeline.studies.estimators import estimators, estimators_figure

FIGURES = RECIPES / "comparisons"
# The recipes in each figure, in order.
AUTOENCODERS = ("autoencoder", "denoising_autoencoder", "aevb_mlp_2d")
WITHOUT_KL = ("no_kl", "aevb_mlp_2d")
PLANES = ("aevb_mlp_2d", "keras_conv_2d", "tfp_softplus_2d", "mean_field_sgvb")
GAPS = 10  # decodings between classes
SPACING = 10.0  # distances from other gaps are divided by this: their labels are larger than the dots of codes
LABEL = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
ESTIMATED = 100  # number of test images for the estimators


def gaps(test: EncodedTestSet) -> Tensor:
    """Returns the midpoints of two classes' mean codes that are farthest from all codes and from each other, [GAPS, 2].

    Distances are relative to the standard deviation of the codes, so that planes of different widths are comparable.
    """
    mu, labels = test.mu, test.labels
    assert labels is not None
    centres = torch.stack([mu[torch.from_numpy(labels == label)].mean(0) for label in np.unique(labels)])
    between = centres[torch.combinations(torch.arange(len(centres)))].mean(1)
    distance = torch.cdist(between / mu.std(0), mu / mu.std(0)).min(1).values
    chosen: list[int] = []
    while len(chosen) < GAPS:
        chosen.append(int(distance.argmax()))
        apart = ((between - between[chosen[-1]]) / mu.std(0)).norm(dim=1)
        distance = torch.minimum(distance, apart / SPACING)
    return between[chosen]


def side_by_side(path: Path, title: str, columns: dict[str, EncodedTestSet], row: str) -> None:
    """Draws latent planes, and below each decodings: of the gaps between classes, or of samples from the prior."""
    with figure(path, width=5.2 * len(columns), height=6.3) as fig:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        grid = fig.subplots(2, len(columns), height_ratios=[4, 1.2], squeeze=False)
        for (name, test), upper, lower in zip(columns.items(), grid[0], grid[1], strict=True):
            points = scatter(upper, test.mu.double().cpu().numpy(), test.labels, len(test.classes))
            upper.set_title(name)
            if row == "gaps":
                z = gaps(test)
                for letter, point in zip(ascii_lowercase, z.cpu().numpy(), strict=False):
                    upper.text(*point, letter, ha="center", va="center", fontsize=10, fontweight="bold", bbox=LABEL)
                lower.set_title(f"E[x|z] at a to {ascii_lowercase[GAPS - 1]}, half way between two classes", fontsize=9)
            else:
                z = test.model.sample_prior(stream_key(0, Stream.PRIOR, test.mu.device), 2 * GAPS)
                upper.scatter(*z.cpu().numpy().T, marker="x", color="black", s=18)
                lower.set_title("E[x|z] of samples from the prior, which the crosses are", fontsize=9)
            show(lower, tiled(pictures(test.model, z), GAPS))
        fig.colorbar(points, ax=grid[0].tolist(), label="class", ticks=range(10)).solids.set_alpha(1)  # type: ignore[union-attr]


def manifolds(path: Path, columns: dict[str, EncodedTestSet], side: int = 15) -> None:
    """Draws the decodings of each plane on a grid of the prior's quantiles."""
    with figure(path, width=4.2 * len(columns), height=4.6) as fig:
        for axes, (name, test) in zip(fig.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
            show(axes, tiled(manifold(test.model, test.mu, side), side))
            axes.set_title(name)


def comparisons(finished: list[str]) -> list[Path]:
    """Draws the figures whose recipes have been run; returns their paths."""
    device, drawn = choose_device(), []
    runs = {name: run_paths(name) for name in sorted({*AUTOENCODERS, *WITHOUT_KL, *PLANES}) if name in finished}
    tests = {name: encode_test_set(run.weights, load_params(run.params), device) for name, run in runs.items()}
    if tests.keys() >= set(AUTOENCODERS) and tests[AUTOENCODERS[0]].classes:
        drawn.append(FIGURES / "autoencoders.png")
        title = "Autoencoders and a VAE: codes of the test set, and what lies between them"
        side_by_side(drawn[-1], title, {name: tests[name] for name in AUTOENCODERS}, "gaps")
    if tests.keys() >= set(WITHOUT_KL):
        drawn.append(FIGURES / "no_kl.png")
        title = "Without the KL term (beta 0), and with it (beta 1)"
        side_by_side(drawn[-1], title, {name: tests[name] for name in WITHOUT_KL}, "prior")
    if planes := {name: tests[name] for name in PLANES if name in tests}:
        drawn.append(FIGURES / "manifolds.png")
        manifolds(drawn[-1], planes)
    if (test := tests.get("mean_field_sgvb")) is not None:
        table = estimators(test.model, test.pixels[:ESTIMATED])
        write_csv(FIGURES / "estimators.csv", table)
        drawn.append(FIGURES / "estimators.png")
        estimators_figure(drawn[-1], table)
    return drawn
