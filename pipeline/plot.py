"""Stage 4: figures of what was trained, as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pipeline.cli import run_stage
from pipeline.data import as_float, read_split
from pipeline.device import choose_device
from pipeline.figure import figure
from pipeline.images import test_pixels
from pipeline.model import VAE
from pipeline.objective import Stream, stream_key
from pipeline.params import Params, load_params
from pipeline.paths import DEFAULT, Place
from pipeline.pictures import QUANTILES, Array, as_images, manifold, pictures, plane, scatter, show, tiled
from pipeline.weights import load_model
from vae_ext import reparam_kl, standard_normal

ENCODED_AT_ONCE = 1000
TRAIN_COLOR, VALIDATION_COLOR = "0.6", "C0"


def learning_curves(curves: Path, folder: Path) -> None:
    """ELBO, distortion and rate against the epoch, train and validation; of an autoencoder, the distortion."""
    panels = {"elbo": "ELBO", "distortion": "distortion  −E log p(x|z)", "rate": "rate  KL(q(z|x) ‖ p(z))"}
    found = [name for name in panels if (curves / f"plots/metrics/validation/{name}.tsv").exists()]
    with figure(folder / "learning_curves.png", width=0.5 + 3.5 * len(found), height=3.4) as fig:
        for axes, name in zip(fig.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            values = []
            for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
                curve = pd.read_csv(curves / f"plots/metrics/{split}/{name}.tsv", sep="\t")
                marker = "o" if len(curve) == 1 else None
                axes.plot(curve["step"] + 1, curve[name], color=color, label=split, marker=marker)
                # The first epoch's training average, over weights that knew nothing yet, may leave the frame.
                values += curve[name].tolist()[split == "train" :]
            axes.set(title=panels[name], xlabel="epoch", ylabel="nats an image", ylim=framed(values))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        fig.axes[0].legend(loc="best")


def framed(values: list[float]) -> tuple[float, float] | None:
    """Limits with a margin around the values; None, matplotlib's own, around a single one."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low)
    return (low - margin, high + margin) if margin > 0 else None


def image_rows(path: Path, title: str, rows: dict[str, Array]) -> None:
    """Rows of images [N, H, W], each with its label."""
    count = max(map(len, rows.values()))
    with figure(path, width=0.75 * count + 1.3, height=0.75 * len(rows) + 0.45) as fig:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axes_row, (label, images) in zip(fig.subplots(len(rows), count, squeeze=False), rows.items(), strict=True):
            for axes, image in zip(axes_row, images, strict=True):
                show(axes, image)
            axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center")


def image_square(path: Path, title: str, images: Array, side: int) -> None:
    """side x side images [side^2, H, W] as one picture."""
    with figure(path, width=5, height=5.3) as fig:
        axes = fig.subplots()
        show(axes, tiled(images, side))
        axes.set_title(title)


def latent_plane(path: Path, mu: Tensor, labels: npt.NDArray[np.uint8]) -> None:
    """Posterior means, coloured by class."""
    points, names = plane(mu)
    with figure(path, width=6.8, height=5.8) as fig:
        axes = fig.subplots()
        drawn = scatter(axes, points, labels)
        axes.set(title=f"Codes (posterior means) of {len(points):,} test images", xlabel=names[0], ylabel=names[1])
        fig.colorbar(drawn, ax=axes, label="class", ticks=np.unique(labels % 10)).solids.set_alpha(1)  # type: ignore[union-attr]


def kl_per_dimension(dimensions: Path, path: Path) -> None:
    """The rate, a latent dimension each, largest first."""
    table = pd.read_csv(dimensions).sort_values("kl", ascending=False)
    colors = np.where(table["active"], VALIDATION_COLOR, TRAIN_COLOR)
    with figure(path, width=6.8, height=3.4) as fig:
        axes = fig.subplots()
        axes.bar(range(1, len(table) + 1), table["kl"], color=colors)
        # The bars of dimensions that are not active are too low to be seen: shade where they stand.
        for place in np.flatnonzero(~table["active"].to_numpy()) + 1:
            axes.axvspan(place - 0.5, place + 0.5, color="0.95", linewidth=0)
        axes.set(
            title=f"KL a latent dimension: {table['active'].sum()} of {len(table)} active, {table['kl'].sum():.2f} nats in all",
            xlabel="dimension, by KL (shaded: not active)",
            ylabel="nats an image",
            xlim=(0.5, len(table) + 0.5),
        )
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@torch.no_grad()
def reconstructions(model: VAE, x: Tensor, seed: int) -> dict[str, Array]:
    """Of images [N, D]: from the posterior's mean, from a sample of it, and a sample of the likelihood too."""
    mu = model.mu(x)
    rows = {"x": as_images(model, x), "E[x|z], z = μ": pictures(model, mu)}
    if not model.is_point:
        mu, logvar = model.encode(x)
        z, _ = reparam_kl(mu, logvar, stream_key(seed, Stream.EVALUATE, x.device), scale=model.scale)
        rows["E[x|z], z ~ q(z|x)"] = pictures(model, z)
        drawn = model.likelihood.sample(model.decode(z), stream_key(seed, Stream.PIXELS, x.device))
        rows["x ~ p(x|z)"] = as_images(model, drawn)
    return rows


@torch.no_grad()
def model_figures(model: VAE, params: Params, folder: Path, device: torch.device) -> None:
    """The figures that need the model: reconstructions, samples, latent plane, manifold."""
    x = as_float(test_pixels(params, device))
    mu = torch.cat([model.mu(batch) for batch in x.split(ENCODED_AT_ONCE)])
    rows = reconstructions(model, x[: params.plot.reconstructions], params.seed)
    image_rows(folder / "reconstructions.png", "Test images, and their reconstructions", rows)
    side = params.plot.samples
    prior = standard_normal(stream_key(params.seed, Stream.PRIOR, device), side * side, model.latent_dim)
    title = "E[x|z] of samples z from N(0, 1)" + ", which the codes were never held to" * model.is_point
    image_square(folder / "samples.png", title, pictures(model, prior), side)
    latent_plane(folder / "latent.png", mu, read_split("test").labels)
    if model.latent_dim == 2:
        side = params.plot.manifold
        whose = "the codes'" if model.is_point else "the prior's"
        title = f"E[x|z] between {whose} quantiles {QUANTILES[0]} and {QUANTILES[1]}"
        image_square(folder / "manifold.png", title, manifold(model, mu, side), side)


def main(place: Place = DEFAULT) -> None:
    params = load_params(place.params)
    device = choose_device()
    model = load_model(place.weights, device)
    learning_curves(place.curves, place.figures)
    if not model.is_point:
        kl_per_dimension(place.dimensions, place.figures / "kl_per_dimension.png")
    model_figures(model, params, place.figures, device)
    print(f"{place.figures}: {', '.join(sorted(path.name for path in place.figures.glob('*.png')))}")


if __name__ == "__main__":
    run_stage(main, __doc__)
