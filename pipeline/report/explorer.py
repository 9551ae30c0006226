"""Data for the page's script: the decoder, test images, and the planes that show their codes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pipeline.figures.projections import principal_plane, tsne_plane
from pipeline.models.codes import EncodedTestSet, classes_in_turn, elbo_terms_in_batches, encode
from pipeline.report.packing import LEVELS, Blob, is_large, layer_descriptions, storage_error
from pipeline.runtime.noise_streams import Stream, stream_key

EXPLORED = 1000  # number of test images whose codes are shown
PIXEL_BYTES = 800_000  # pixel data in the page: all EXPLORED images of MNIST, 65 of 64 x 64 pixels in colour


def planes(test: EncodedTestSet, mu: Tensor, axes: list[int], blob: Blob) -> list[dict[str, Any]]:
    """Returns the planes for codes [N, latent_dim], each with the texts of its control, axes and note.

    A linear plane has ``directions`` and an ``origin``: each of its points is a code. A t-SNE plane has ``points``, the
    positions of the images' codes.
    """
    of_most = "that vary most" if test.model.is_deterministic else "of most KL"
    names = [f"z[{i}]" for i in axes]
    directions = torch.eye(mu.shape[1], device=mu.device)[axes]
    found: list[dict[str, Any]] = [
        {
            "name": "Two dimensions",
            "note": f"The two dimensions {of_most}. Moving the point changes these two; the others stay.",
            "axes": names,
            "labels": names,
            "origin": [0.0] * mu.shape[1],
            "directions": directions.tolist(),
            "span": span(mu @ directions.T),
        }
    ]
    if mu.shape[1] <= 2:
        return found
    principal = principal_plane(test.mu.double())  # of all images, as in the figure of the latent plane
    if math.isnan(principal.shares[0]):
        return found
    names = ["PC 1", "PC 2"]
    found.append(
        {
            "name": "PCA",
            "note": "The two principal components of the codes. Moving the point changes z along these two directions; "
            "the rest of z stays.",
            "axes": names,
            "labels": [f"{name} ({share:.0%} of variance)" for name, share in zip(names, principal.shares, strict=True)],
            "origin": decimals(principal.centre),
            "directions": decimals(principal.directions),
            "span": round(span(principal.coordinates(mu.double())), 6),
        }
    )
    if (points := tsne_plane(mu)) is not None:
        found.append(
            {
                "name": "t-SNE",
                "note": "Similar codes lie together, but how far groups are apart says little. "
                "A point between images has no code: what is decoded is the nearest image's.",
                "axes": [],
                "labels": [],
                "points": blob.add(points),
                "span": 1.05,
            }
        )
    return found


def decimals(values: Tensor) -> list[Any]:
    """Rounds numbers, since the last bits of a matrix product depend on the number of threads."""
    rounded: list[Any] = torch.round(values, decimals=6).tolist()
    return rounded


def span(coordinates: Tensor) -> float:
    """Returns the half-width of a plane that contains nearly all of its codes."""
    return max(3.0, torch.quantile(coordinates.abs(), 0.995).item())


@torch.no_grad()
def explorer(test: EncodedTestSet, axes: list[int], sliders: list[int], seed: int) -> tuple[dict[str, Any], str]:
    """Returns the model and test images for the page's script: a description, and the packed data that it refers to.

    Args:
        test: the model and the test set.
        axes: the dimensions of the first plane (only one if the model has one).
        sliders: the dimensions with a slider.
        seed: of the noise.
    """
    blob, model, examples = Blob(), test.model, test.examples[:EXPLORED]
    pixels = examples.pixels
    layers = layer_descriptions(model.decoder, blob)
    mu, sigma = encode(model, examples)
    terms = elbo_terms_in_batches(model, examples, stream_key(seed, Stream.EVALUATE, pixels.device))
    in_turn = classes_in_turn(model, len(mu), pixels.device)
    prior = model.sample_prior(stream_key(seed, Stream.PRIOR, pixels.device), len(mu), in_turn)
    labels = torch.cat([examples.labels, in_turn]) if examples.labels is not None and in_turn is not None else None
    centre = torch.zeros_like(mu[0]) if model.has_standard_prior else mu.mean(0)
    *colours, height, width = model.image_shape
    held = min(len(pixels), max(1, PIXEL_BYTES // model.pixels))
    found = planes(test, mu, axes, blob)
    return {
        "layers": layers,
        "levels": LEVELS if is_large(model.decoder) else None,
        "likelihood": type(model.likelihood).__name__.lower(),
        "latent_dim": model.latent_dim,
        "is_deterministic": model.is_deterministic,
        "is_conditional": model.is_conditional,
        "channels": math.prod(colours),
        "height": height,
        "width": width,
        "planes": found,
        "sliders": sliders,
        "centre": centre.tolist(),
        "span": found[0]["span"],
        "count": len(pixels),
        "held": held,
        "classes": None if test.labels is None else test.labels[:EXPLORED].tolist(),
        "names": test.classes,
        # Rounded to 0.01: nats are shown to a tenth, which is finer than half precision.
        "terms": [
            [round(value, 2) for value in image] for image in torch.stack([terms.distortion, terms.rate], dim=1).tolist()
        ],
        "blob": {"mu": blob.add(mu), "sigma": blob.add(sigma), "pixels": blob.add(pixels[:held])},
        "error": storage_error(model, torch.cat([mu, prior]), labels),
    }, blob.packed()
