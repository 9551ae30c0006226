"""The figures that need more than one recipe's model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch
from torch import Tensor

from pipeline.config.paths import RECIPES, run_paths
from pipeline.data.prepared import Classes, read_split, to_device
from pipeline.figures.grids import pictures, show, tiled
from pipeline.figures.latent import manifold, scatter
from pipeline.figures.style import figure
from pipeline.models.codes import posterior_means
from pipeline.models.serialization import load_model_of_prepared_data
from pipeline.models.vae import VAE
from pipeline.runtime.device import choose_device
from pipeline.runtime.files import whole_file
from pipeline.runtime.noise_streams import Stream, stream_key
from pipeline.studies.estimators import estimators, estimators_figure
from vae_ext import standard_normal

FIGURES = RECIPES / "comparisons"
GAPS = 10  # decodings between classes
ROOM = 10.0  # how much farther from another gap than from a code: their labels are larger than dots
LABEL = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
ESTIMATED = 100  # test images, the first, of the estimators


@dataclass(frozen=True)
class Codes:
    """A recipe's model, and the codes of the test set: mu [N, latent_dim] of pixels [N, D], bytes."""

    name: str
    model: VAE
    pixels: Tensor
    mu: Tensor
    labels: Classes | None
    classes: list[str]


def encode_test_set(name: str, device: torch.device) -> Codes:
    """A recipe's test set, encoded."""
    model, metadata = load_model_of_prepared_data(run_paths(name).weights, device)
    test = read_split("test")
    pixels = to_device(test.images, device)
    mu = posterior_means(model, pixels)
    return Codes(name, model, pixels, mu, test.labels, metadata.data.classes or [])


def gaps(codes: Codes) -> Tensor:
    """Of the points half way between two classes' mean codes, those farthest from all images' codes and each other, [GAPS, 2].

    Far is meant against the codes' own spread, so that planes of different widths compare.
    """
    mu = codes.mu
    assert codes.labels is not None
    centres = torch.stack([mu[torch.from_numpy(codes.labels == label)].mean(0) for label in np.unique(codes.labels)])
    pairs = torch.combinations(torch.arange(len(centres)))
    between = centres[pairs].mean(1)
    distance = torch.cdist(between / mu.std(0), mu / mu.std(0)).min(1).values
    chosen: list[int] = []
    while len(chosen) < GAPS:
        chosen.append(int(distance.argmax()))
        apart = ((between - between[chosen[-1]]) / mu.std(0)).norm(dim=1)
        distance = torch.minimum(distance, apart / ROOM)
    return between[chosen]


def side_by_side(path: Path, title: str, columns: list[Codes], row: str) -> None:
    """Latent planes, and under each what it decodes to: the gaps between classes, or samples from the prior."""
    with figure(path, width=5.2 * len(columns), height=6.3) as fig:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        grid = fig.subplots(2, len(columns), height_ratios=[4, 1.2], squeeze=False)
        for codes, upper, lower in zip(columns, grid[0], grid[1], strict=True):
            drawn = scatter(upper, codes.mu.double().cpu().numpy(), codes.labels, len(codes.classes))
            upper.set_title(codes.name)
            if row == "gaps":
                z = gaps(codes)
                for i, point in enumerate(z.cpu().numpy()):
                    upper.text(*point, ascii_lowercase[i], ha="center", va="center", fontsize=10, fontweight="bold", bbox=LABEL)
                lower.set_title(f"E[x|z] at a to {ascii_lowercase[GAPS - 1]}, half way between two classes", fontsize=9)
            else:
                key = stream_key(0, Stream.PRIOR, codes.mu.device)
                z = standard_normal(key, 2 * GAPS, codes.mu.shape[1])
                upper.scatter(*z.cpu().numpy().T, marker="x", color="black", s=18)
                lower.set_title("E[x|z] of samples from the prior, which the crosses are", fontsize=9)
            show(lower, tiled(pictures(codes.model, z), GAPS))
        fig.colorbar(drawn, ax=grid[0].tolist(), label="class", ticks=range(10)).solids.set_alpha(1)  # type: ignore[union-attr]


def comparisons(done: set[str]) -> list[Path]:
    """Draws those figures whose recipes are there; returns where."""
    device = choose_device()
    drawn = []

    def codes_of(*wanted: str) -> list[Codes]:
        return [encode_test_set(name, device) for name in wanted] if set(wanted) <= done else []

    columns = codes_of("autoencoder", "denoising_autoencoder", "aevb_mlp_2d")
    if columns and columns[0].classes:
        drawn.append(FIGURES / "autoencoders.png")
        side_by_side(drawn[-1], "Autoencoders and a VAE: codes of the test set, and what lies between them", columns, "gaps")
    if columns := codes_of("no_kl", "aevb_mlp_2d"):
        drawn.append(FIGURES / "no_kl.png")
        side_by_side(drawn[-1], "Without the KL term (beta 0), and with it (beta 1)", columns, "prior")
    planes = [name for name in ("aevb_mlp_2d", "keras_conv_2d", "tfp_softplus_2d", "mean_field_sgvb") if name in done]
    if planes:
        drawn.append(FIGURES / "manifolds.png")
        manifolds(drawn[-1], codes_of(*planes))
    if columns := codes_of("mean_field_sgvb"):
        table = estimators(columns[0].model, columns[0].pixels[:ESTIMATED])
        with whole_file(FIGURES / "estimators.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
        drawn.append(FIGURES / "estimators.png")
        estimators_figure(drawn[-1], table)
    return drawn


def manifolds(path: Path, columns: list[Codes], side: int = 15) -> None:
    """What each plane decodes to, between the prior's quantiles."""
    with figure(path, width=4.2 * len(columns), height=4.6) as fig:
        for axes, codes in zip(fig.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            show(axes, tiled(manifold(codes.model, codes.mu, side), side))
            axes.set_title(codes.name)
