"""Figures of decoded images: reconstructions, samples, and paths through the latent space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.config.params import Params
from pipeline.data.tensors import as_float
from pipeline.figures.class_names import legible
from pipeline.figures.grids import Array, as_images, first_class, pictures, show, tiled
from pipeline.figures.latent import QUANTILES, manifold
from pipeline.figures.style import figure
from pipeline.models.codes import EncodedTestSet, classes_in_turn, elbo_terms_in_batches, line_between
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key

EXTREMES = 4  # number of best, median and worst images
PAIRS, STEPS = 6, 9  # number of interpolations, and of images in each
MAX_CLASSES = 20  # number of rows of samples by class
REACH = 2.5  # range of a traversal, in standard deviations of the prior


def image_rows(path: Path, title: str, rows: dict[str, Array], families: list[str] | None = None) -> None:
    """Draws rows of images [N, H, W], each with a label, in these font families."""
    count = max(map(len, rows.values()))
    with figure(path, width=0.75 * count + 1.3, height=0.75 * len(rows) + 0.45) as fig:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axes, (label, images) in zip(fig.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
            margin = [(0, 0), (1, 1), (2, 2)] + [(0, 0)] * (images.ndim - 3)
            show(axes, tiled(np.pad(images, margin, constant_values=0 if images.ndim == 3 else 1), len(images)))
            axes.set_ylabel(label, rotation=0, ha="right", va="center", fontfamily=families)


def image_square(path: Path, title: str, images: Array, side: int) -> None:
    """Draws side x side images [side^2, H, W] as one picture."""
    with figure(path, width=5, height=5.3) as fig:
        axes = fig.subplots()
        show(axes, tiled(images, side))
        axes.set_title(title)


def reconstructions(test: EncodedTestSet, count: int, seed: int, path: Path) -> None:
    """Draws the first images with reconstructions: from the posterior mean, from a sample of z, and a sample of p(x|z)."""
    model, examples = test.model, test.examples[:count]
    pixels, labels = examples.pixels, examples.labels
    rows = {"x": as_images(model, as_float(pixels)), "E[x|z], z = μ": pictures(model, test.mu[:count], labels)}
    if not model.is_deterministic:
        posterior = model.posterior(as_float(pixels), labels)
        z, _ = model.draw_with_kl(posterior, stream_key(seed, Stream.EVALUATE, pixels.device), labels)
        rows["E[x|z], z ~ q(z|x)"] = pictures(model, z, labels)
        drawn = model.likelihood.sample(model.decode(z, labels), stream_key(seed, Stream.PIXELS, pixels.device))
        rows["x ~ p(x|z)"] = as_images(model, drawn)
    image_rows(path, "Test images x, and reconstructions: E[x|z] should look like x", rows)


def extremes(test: EncodedTestSet, seed: int, path: Path) -> None:
    """Draws the test images of best, median and worst ELBO (for an autoencoder: distortion), with reconstructions."""
    model = test.model
    elbo = elbo_terms_in_batches(model, test.examples, stream_key(seed, Stream.EVALUATE, test.mu.device)).elbo
    order = elbo.argsort(descending=True)
    count = max(1, min(EXTREMES, len(order) // 3))
    middle = (len(order) - count) // 2
    chosen = torch.cat([order[:count], order[middle : middle + count], order[len(order) - count :]])
    examples = test.examples[chosen]
    rows = {
        "x": as_images(model, as_float(examples.pixels)),
        "E[x|z], z = μ": pictures(model, test.mu[chosen], examples.labels),
    }
    with figure(path, width=0.75 * len(chosen) + 1.3, height=2.35) as fig:
        name = "distortion" if model.is_deterministic else "ELBO"
        title = f"Test images of best, median and worst {name} (nats per image), each above its reconstruction"
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axes_row, (label, images) in zip(fig.subplots(2, len(chosen), squeeze=False), rows.items(), strict=True):
            for axes, image, value in zip(axes_row, images, elbo[chosen].tolist(), strict=True):
                show(axes, image)
                if label == "x":
                    axes.set_title(f"{-value if model.is_deterministic else value:.0f}", loc="center", fontsize=9)
            axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center")


def samples(model: VAE, side: int, seed: int, device: torch.device, path: Path) -> None:
    """Draws decodings of samples from the prior."""
    labels = classes_in_turn(model, side * side, device)
    prior = model.sample_prior(stream_key(seed, Stream.PRIOR, device), side * side, labels)
    title = "E[x|z] of samples z from N(0, 1)"
    if model.is_deterministic:
        title += ",\nwhich an autoencoder does not learn to decode"
    elif labels is not None:
        title = "E[x|z] of samples from the prior, the classes in turn"
    else:
        title = f"{title}, the prior" if model.has_standard_prior else "E[x|z] of samples from the prior"
    image_square(path, title, pictures(model, prior, labels), side)


def class_samples(test: EncodedTestSet, seed: int, path: Path) -> None:
    """Draws a row of samples of each class; a column has the same noise, so that its images share what z encodes."""
    model, key, rows = test.model, stream_key(seed, Stream.PRIOR, test.mu.device), {}
    names, families = legible(test.classes[:MAX_CLASSES])
    for label, name in enumerate(names):
        labels = torch.full((STEPS,), label, device=test.mu.device)
        rows[name.replace("$", r"\$")] = pictures(model, model.sample_prior(key, STEPS, labels), labels)
    more = f", of the first {MAX_CLASSES} classes" if len(test.classes) > MAX_CLASSES else ""
    image_rows(path, f"E[x|z] of samples from the prior, by class; a column has the same noise{more}", rows, families)


def interpolations(test: EncodedTestSet, path: Path) -> None:
    """Draws decodings along straight lines between the codes of pairs of test images, with the images at the ends."""
    rows = {}
    for a in range(0, min(2 * PAIRS, len(test.pixels) - 1), 2):
        labels = test.examples.labels
        if labels is not None:  # of the first image for half of the line, then of the second
            labels = labels[a : a + 2].repeat_interleave(torch.tensor([STEPS - STEPS // 2, STEPS // 2], device=labels.device))
        line = pictures(test.model, line_between(test.mu[a], test.mu[a + 1], STEPS), labels)
        ends = as_images(test.model, as_float(test.pixels[a : a + 2]))
        rows[f"{a} to {a + 1}"] = np.concatenate([ends[:1], line, ends[1:]])
    if rows:
        image_rows(
            path, "From one test image (left) to another (right): E[x|z] along the straight line between their codes", rows
        )


def traversals(model: VAE, mu: Tensor, order: list[int], path: Path) -> None:
    """Draws E[x|z] along each of these dimensions, the others at 0 (if the prior is not N(0, 1): at the codes' mean)."""
    centre, spread = (torch.zeros_like(mu[0]), torch.ones_like(mu[0])) if model.has_standard_prior else (mu.mean(0), mu.std(0))
    steps = torch.linspace(-REACH, REACH, STEPS, device=mu.device)
    rows = {}
    for dimension in order:
        z = centre.repeat(STEPS, 1)
        z[:, dimension] += steps * spread[dimension]
        rows[f"dimension {dimension}"] = pictures(model, z, first_class(model, z))
    others = "0" if model.has_standard_prior else "their mean"
    title = f"E[x|z]: each row varies one active dimension from −{REACH} σ to {REACH} σ, the others at {others}"
    image_rows(path, title, rows)


@torch.no_grad()
def decoding_figures(test: EncodedTestSet, params: Params, active: list[int], folder: Path) -> None:
    """Draws all figures of decodings; ``active`` lists the dimensions to traverse, in order."""
    model, mu = test.model, test.mu
    reconstructions(test, params.plot.reconstructions, params.seed, folder / "reconstructions.png")
    extremes(test, params.seed, folder / "extremes.png")
    samples(model, params.plot.samples, params.seed, mu.device, folder / "samples.png")
    if model.uses_classes:
        class_samples(test, params.seed, folder / "class_samples.png")
    interpolations(test, folder / "interpolations.png")
    if active:
        traversals(model, mu, active, folder / "traversals.png")
    if model.latent_dim == 2:
        side = params.plot.manifold
        owner = "the prior's" if model.has_standard_prior else "the codes'"
        title = f"E[x|z] over the latent plane, between {owner}\nquantiles {QUANTILES[0]} and {QUANTILES[1]}"
        image_square(folder / "manifold.png", title, manifold(model, mu, side), side)
