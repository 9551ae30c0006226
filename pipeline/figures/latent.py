"""Figures of the latent space: codes in a plane, decodings of a plane, and the KL of each dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib import color_sequences, colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pipeline.evaluation.model_card import sentence_case
from pipeline.figures.class_names import legible
from pipeline.figures.grids import Array, first_class, pictures
from pipeline.figures.projections import principal_plane
from pipeline.figures.style import TRAIN_COLOR, VALIDATION_COLOR, figure
from pipeline.models.vae import VAE

Labels = npt.NDArray[np.integer[Any]]
QUANTILES = (0.05, 0.95)  # range of the manifold
MAX_NAMES = 40  # of classes, beside the figure
BAR_POINTS = 280  # height of the colour bar with the class names


def plane(mu: Tensor) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Returns codes in two dimensions, or along two principal components, [N, 2]; and the names of the axes."""
    dim = mu.shape[1]
    mu = mu.double()
    if dim > 2:
        principal = principal_plane(mu)
        shares = enumerate(principal.shares)
        names = [f"principal component {i + 1} of {dim} dimensions ({part:.0%} of variance)" for i, part in shares]
        return principal.coordinates(mu).cpu().numpy(), names
    if dim == 1:
        mu = torch.cat([mu, torch.zeros_like(mu)], dim=1)
    return mu.cpu().numpy(), ["dimension 1", "dimension 2" if dim > 1 else ""]


def scatter(axes: Axes, points: npt.NDArray[np.float64], labels: Labels | None, count: int) -> PathCollection:
    """Draws points coloured by class, of ``count`` classes; grey without labels. Few points are drawn larger."""
    options = {"s": np.clip(500 / len(points) ** 0.5, 5, 60), "alpha": 0.6, "linewidths": 0}
    if labels is None:
        return axes.scatter(points[:, 0], points[:, 1], color="0.4", **options)
    colors = ListedColormap(color_sequences["tab10"][:count]) if count <= 10 else colormaps["turbo"].resampled(count)
    return axes.scatter(points[:, 0], points[:, 1], c=labels, cmap=colors, vmin=-0.5, vmax=colors.N - 0.5, **options)


def manifold(model: VAE, mu: Tensor, side: int) -> Array:
    """Decodes E[x|z] on a grid of the prior's quantiles or, if that is not N(0, 1), of the codes'; the second axis points up.

    A model that uses classes decodes the first one.
    """
    share = torch.linspace(*QUANTILES, side, dtype=torch.float64)
    across = [torch.special.ndtri(share)] * 2
    if not model.has_standard_prior:
        across = [torch.quantile(mu[:, i].double().cpu(), share) for i in range(2)]
    z = torch.cartesian_prod(across[1].flip(0), across[0]).flip(1)
    return pictures(model, z.to(mu), first_class(model, z.to(mu)))


def latent_plane(path: Path, mu: Tensor, labels: Labels | None, names: list[str]) -> None:
    """Draws posterior means, coloured by class if there are labels, and their density."""
    points, (across, up) = plane(mu)
    with figure(path, width=11.5, height=5.2) as fig:
        classes, density = fig.subplots(1, 2, sharex=True, sharey=True)
        drawn = scatter(classes, points, labels, len(names))
        title = f"Codes (posterior means) of {len(points):,} test images" + ", by class" * (labels is not None)
        classes.set(title=title, xlabel=across, ylabel=up)
        if labels is not None:
            named = len(names) <= MAX_NAMES
            bar = fig.colorbar(drawn, ax=classes, label="" if named else f"class, by number, of {len(names):,}")
            bar.solids.set_alpha(1)  # type: ignore[union-attr]
            if named:
                shown, families = legible(names)
                bar.set_ticks(range(len(names)), labels=[name.replace("$", r"\$") for name in shown], fontfamily=families)
                bar.ax.tick_params(labelsize=min(10, BAR_POINTS / len(names)))
        side = int(np.clip(0.4 * len(points) ** 0.5, 10, 40))
        cells = density.hexbin(points[:, 0], points[:, 1], gridsize=side, cmap="Greys", mincnt=1, vmin=0, linewidths=0)
        for axes in (classes, density):
            axes.margins(0.1)  # for the outermost cells
        if not up:
            density.set_yticks([])
        density.set(title="Where codes are dense, and where there are none", xlabel=across)
        fig.colorbar(cells, ax=density, label="images per cell", ticks=MaxNLocator(integer=True))


def codes(path: Path, mu: Tensor, labels: Labels | None, count: int) -> None:
    """Draws only posterior means, coloured by class, of ``count`` classes."""
    points, (across, up) = plane(mu)
    with figure(path, width=5, height=5) as fig:
        axes = fig.subplots()
        scatter(axes, points, labels, count)
        axes.set(xlabel=across, ylabel=up)


def kl_per_dimension(table: pd.DataFrame, path: Path, quantity: str = "KL") -> None:
    """Draws the rate of each latent dimension, largest first; ``quantity`` is its name."""
    active, total = table["active"].sum(), table["kl"].sum()
    colors = np.where(table["active"], VALIDATION_COLOR, TRAIN_COLOR)
    with figure(path, width=6.8, height=3.4) as fig:
        axes = fig.subplots()
        axes.bar(range(1, len(table) + 1), table["kl"], color=colors)
        # Bars of inactive dimensions are too low to be visible: shade their positions.
        for rank in np.flatnonzero(~table["active"].to_numpy()) + 1:
            axes.axvspan(rank - 0.5, rank + 0.5, color="0.95", linewidth=0)
        axes.set(
            title=f"{sentence_case(quantity)} per latent dimension: {active} of {len(table)} active, sum {total:.2f} nats",
            xlabel=f"rank of the dimension by {quantity} (shaded: not active)",
            ylabel="nats per image",
            xlim=(0.5, len(table) + 0.5),
        )
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
