"""Stage 4: figures of what was trained, as PNG."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pipeline import likelihood
from pipeline.cli import run
from pipeline.data import as_float, read_split
from pipeline.device import choose_device
from pipeline.figure import figure
from pipeline.images import test_pixels
from pipeline.model import VAE
from pipeline.objective import Stream, stream_key
from pipeline.params import Params, load_params
from pipeline.paths import CURVES, DIMENSIONS, FIGURES, WEIGHTS
from pipeline.weights import load_model
from vae_ext import standard_normal

TRAIN_COLOR, VALIDATION_COLOR = "0.6", "C0"
Array = npt.NDArray[np.float32]


def learning_curves() -> None:
    """ELBO, distortion and rate against the epoch, train and validation."""
    panels = {"elbo": "ELBO", "distortion": "distortion  −E log p(x|z)", "rate": "rate  KL(q(z|x) ‖ p(z))"}
    with figure(FIGURES / "learning_curves.png", width=11, height=3.4) as fig:
        for axes, (name, title) in zip(fig.subplots(1, 3), panels.items(), strict=True):
            values = []
            for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
                curve = pd.read_csv(CURVES / f"plots/metrics/{split}/{name}.tsv", sep="\t")
                marker = "o" if len(curve) == 1 else None
                axes.plot(curve["step"] + 1, curve[name], color=color, label=split, marker=marker)
                # The first epoch's training average, over weights that knew nothing yet, may leave the frame.
                values += curve[name].tolist()[split == "train" :]
            axes.set(title=title, xlabel="epoch", ylabel="nats an image", ylim=framed(values))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        fig.axes[0].legend(loc="lower right")


def framed(values: list[float]) -> tuple[float, float] | None:
    """Limits with a margin around the values; None, matplotlib's own, around a single one."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low)
    return (low - margin, high + margin) if margin > 0 else None


def image_rows(name: str, title: str, rows: dict[str, Array]) -> None:
    """Rows of images [N, H, W], each with its label."""
    count = max(map(len, rows.values()))
    with figure(FIGURES / f"{name}.png", width=0.75 * count + 1.0, height=0.75 * len(rows) + 0.45) as fig:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axes_row, (label, images) in zip(fig.subplots(len(rows), count, squeeze=False), rows.items(), strict=True):
            for axes, image in zip(axes_row, images, strict=True):
                axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center")


def image_square(name: str, title: str, images: Array, side: int) -> None:
    """side x side images [side^2, H, W] as one picture."""
    _, height, width = images.shape
    canvas = images.reshape(side, side, height, width).transpose(0, 2, 1, 3).reshape(side * height, side * width)
    with figure(FIGURES / f"{name}.png", width=5, height=5.3) as fig:
        axes = fig.subplots()
        axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=1)
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def latent_plane(mu: Tensor, labels: npt.NDArray[np.uint8]) -> None:
    """Posterior means coloured by class, in their first two dimensions or principal components."""
    dim = mu.shape[1]
    if dim > 2:
        mu = mu.double() - mu.double().mean(dim=0)
        _, s, v = torch.linalg.svd(mu, full_matrices=False)
        # A component's sign is arbitrary: let its largest weight be positive, so that two runs' pictures compare.
        v = v * v.gather(1, v.abs().argmax(dim=1, keepdim=True)).sign()
        share = (s[:2].square() / s.square().sum()).tolist()
        mu = mu @ v[:2].T
        names = [f"principal component {i + 1} of {dim} dimensions ({part:.0%} of variance)" for i, part in enumerate(share)]
    else:
        names = [f"dimension {i + 1}" for i in range(dim)]
    points = mu.cpu().numpy()
    x, y = points[:, 0], points[:, 1] if dim > 1 else np.zeros(len(points))
    with figure(FIGURES / "latent.png", width=6.8, height=5.8) as fig:
        axes = fig.subplots()
        for label in np.unique(labels):
            here = labels == label
            axes.scatter(x[here], y[here], s=5, alpha=0.6, linewidths=0, color=f"C{label % 10}", label=str(label))
        axes.set(title=f"Posterior means of {len(points):,} test images", xlabel=names[0], ylabel=names[1] if dim > 1 else "")
        axes.legend(title="class", markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1)


def kl_per_dimension() -> None:
    """The rate, a latent dimension each, largest first."""
    table = pd.read_csv(DIMENSIONS).sort_values("kl", ascending=False)
    colors = np.where(table["active"], VALIDATION_COLOR, TRAIN_COLOR)
    with figure(FIGURES / "kl_per_dimension.png", width=6.8, height=3.4) as fig:
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
def model_figures(model: VAE, params: Params, device: torch.device) -> None:
    """The figures that need the model: reconstructions, samples, latent plane."""
    reconstructions, side = params.plot.reconstructions, params.plot.samples
    test = read_split("test")
    shape = test.images.shape[1:]

    def pictures(z: Tensor) -> Array:
        decoded: Array = likelihood.mean(model.decode(z)).reshape(-1, *shape).cpu().numpy()
        return decoded

    x = as_float(test_pixels(params, device))
    mu, _ = model.encode(x)
    shown = x[:reconstructions]
    image_rows(
        "reconstructions",
        "Test images, and their reconstructions from the posterior mean",
        {"x": shown.reshape(-1, *shape).cpu().numpy(), "E[x|z]": pictures(mu[:reconstructions])},
    )
    prior = standard_normal(stream_key(params.seed, Stream.PRIOR, device), side * side, model.latent_dim)
    image_square("samples", "E[x|z] of samples z from the prior", pictures(prior), side)
    latent_plane(mu, test.labels)


def main() -> None:
    params = load_params()
    device = choose_device()
    model = load_model(WEIGHTS, device)
    learning_curves()
    kl_per_dimension()
    model_figures(model, params, device)
    print(f"{FIGURES}: {', '.join(sorted(path.name for path in FIGURES.glob('*.png')))}")


if __name__ == "__main__":
    run(main)
