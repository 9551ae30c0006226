"""Figures of decoded images: reconstructions, samples, and ways through the latent space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.config.params import Params
from pipeline.data.prepared import as_float
from pipeline.figures.grids import Array, as_images, pictures, show, tiled
from pipeline.figures.latent import QUANTILES, manifold
from pipeline.figures.style import figure
from pipeline.models.codes import line_between
from pipeline.models.objectives import elbo_terms
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key
from vae_ext import reparam_kl, standard_normal

EXTREMES = 4  # images each of the best, the middle, and the worst
PAIRS, STEPS = 6, 9  # of interpolations
REACH = 2.5  # standard deviations of the prior, each way, of a traversal


def image_rows(path: Path, title: str, rows: dict[str, Array]) -> None:
    """Rows of images [N, H, W], each with its label."""
    count = max(map(len, rows.values()))
    with figure(path, width=0.75 * count + 1.3, height=0.75 * len(rows) + 0.45) as fig:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axes, (label, images) in zip(fig.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
            margin = [(0, 0), (1, 1), (2, 2)] + [(0, 0)] * (images.ndim - 3)
            show(axes, tiled(np.pad(images, margin, constant_values=0 if images.ndim == 3 else 1), len(images)))
            axes.set_ylabel(label, rotation=0, ha="right", va="center")


def image_square(path: Path, title: str, images: Array, side: int) -> None:
    """side x side images [side^2, H, W] as one picture."""
    with figure(path, width=5, height=5.3) as fig:
        axes = fig.subplots()
        show(axes, tiled(images, side))
        axes.set_title(title)


def reconstructions(model: VAE, x: Tensor, seed: int, path: Path) -> None:
    """Of images [N, D]: from the posterior's mean, from a sample of it, and a sample of the likelihood too."""
    mu = model.mu(x)
    rows = {"x": as_images(model, x), "E[x|z], z = μ": pictures(model, mu)}
    if not model.is_deterministic:
        mu, logvar = model.encode(x)
        z, _ = reparam_kl(mu, logvar, stream_key(seed, Stream.EVALUATE, x.device), scale=model.scale)
        rows["E[x|z], z ~ q(z|x)"] = pictures(model, z)
        drawn = model.likelihood.sample(model.decode(z), stream_key(seed, Stream.PIXELS, x.device))
        rows["x ~ p(x|z)"] = as_images(model, drawn)
    image_rows(path, "Test images, and their reconstructions", rows)


def extremes(model: VAE, pixels: Tensor, mu: Tensor, seed: int, path: Path) -> None:
    """The test images that the model explains best, as most, and worst, by ELBO (an autoencoder's: by distortion)."""
    key = stream_key(seed, Stream.EVALUATE, pixels.device)
    parts = zip(range(0, len(pixels), 1000), pixels.split(1000), strict=True)
    elbo = torch.cat([elbo_terms(model, part, key, row_offset=row).elbo for row, part in parts])
    order = elbo.argsort(descending=True)
    count = max(1, min(EXTREMES, len(order) // 3))
    middle = (len(order) - count) // 2
    chosen = torch.cat([order[:count], order[middle : middle + count], order[len(order) - count :]])
    rows = {"x": as_images(model, as_float(pixels[chosen])), "E[x|z], z = μ": pictures(model, mu[chosen])}
    with figure(path, width=0.75 * len(chosen) + 1.3, height=2.35) as fig:
        name = "distortion" if model.is_deterministic else "ELBO"
        fig.suptitle(f"Test images of the best, the median and the worst {name}, in nats", x=0.01, ha="left", fontsize=11)
        for axes_row, (label, images) in zip(fig.subplots(2, len(chosen), squeeze=False), rows.items(), strict=True):
            for axes, image, value in zip(axes_row, images, elbo[chosen].tolist(), strict=True):
                show(axes, image)
                if label == "x":
                    axes.set_title(f"{-value if model.is_deterministic else value:.0f}", loc="center", fontsize=9)
            axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center")


def samples(model: VAE, side: int, seed: int, device: torch.device, path: Path) -> None:
    """Decodings of the prior."""
    prior = standard_normal(stream_key(seed, Stream.PRIOR, device), side * side, model.latent_dim)
    title = "E[x|z] of samples z from N(0, 1)" + ", not the codes' own" * model.is_deterministic
    image_square(path, title, pictures(model, prior), side)


def interpolations(model: VAE, x: Tensor, mu: Tensor, path: Path) -> None:
    """Straight ways between the codes of test images, the first ones two by two: an image, E[x|z] on the way, the other."""
    rows = {}
    for pair in range(min(PAIRS, len(x) // 2)):
        a, b = 2 * pair, 2 * pair + 1
        way = pictures(model, line_between(mu[a], mu[b], STEPS))
        ends = as_images(model, x[[a, b]])
        rows[f"{a} to {b}"] = np.concatenate([ends[:1], way, ends[1:]])
    if rows:
        image_rows(path, "Between test images: x, E[x|z] along the line from μ to μ, x", rows)


def traversals(model: VAE, mu: Tensor, order: list[int], path: Path) -> None:
    """E[x|z] along each of these dimensions, the others at 0 (an autoencoder's: about its codes' mean, by their spread)."""
    centre, spread = (mu.mean(0), mu.std(0)) if model.is_deterministic else (torch.zeros_like(mu[0]), torch.ones_like(mu[0]))
    steps = torch.linspace(-REACH, REACH, STEPS, device=mu.device)
    rows = {}
    for dimension in order:
        z = centre.repeat(STEPS, 1)
        z[:, dimension] += steps * spread[dimension]
        rows[f"dimension {dimension}"] = pictures(model, z)
    others = "their mean" if model.is_deterministic else "0"
    image_rows(path, f"E[x|z] along each active dimension, {REACH} σ each way, the others at {others}", rows)


@torch.no_grad()
def decoding_figures(model: VAE, params: Params, pixels: Tensor, mu: Tensor, active: list[int], folder: Path) -> None:
    """All of them, of the test set and its codes; ``active``: the dimensions to go along, in order."""
    count = params.plot.reconstructions
    reconstructions(model, as_float(pixels[:count]), params.seed, folder / "reconstructions.png")
    extremes(model, pixels, mu, params.seed, folder / "extremes.png")
    samples(model, params.plot.samples, params.seed, pixels.device, folder / "samples.png")
    interpolations(model, as_float(pixels[: 2 * PAIRS]), mu, folder / "interpolations.png")
    if active:
        traversals(model, mu, active, folder / "traversals.png")
    if model.latent_dim == 2:
        side = params.plot.manifold
        whose = "the codes'" if model.is_deterministic else "the prior's"
        title = f"E[x|z] between {whose} quantiles {QUANTILES[0]} and {QUANTILES[1]}"
        image_square(folder / "manifold.png", title, manifold(model, mu, side), side)
