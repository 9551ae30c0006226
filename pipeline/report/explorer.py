"""What the page's script is given: the decoder, test images, and the planes in which it shows their codes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pipeline.figures.projections import principal_plane, tsne_plane
from pipeline.models.codes import EncodedTestSet, elbo_terms_in_batches, encode
from pipeline.report.packing import LEVELS, Blob, is_large, layer_descriptions, storage_error
from pipeline.runtime.noise_streams import Stream, stream_key

EXPLORED = 1000  # test images, the first, whose codes are shown
PIXEL_BYTES = 800_000  # of the first of them: those of MNIST all, of 64 x 64 pixels in colour 65


def planes(test: EncodedTestSet, mu: Tensor, axes: list[int], blob: Blob) -> list[dict[str, Any]]:
    """The planes of codes [N, latent_dim], each with what its control, its axes and the line below it say.

    A linear one has ``directions`` and the ``origin`` that they start from: any of its points is a code. The other has
    ``points``, where each image's code is shown.
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
    principal = principal_plane(test.mu.double())  # of all images, as in the figure of codes
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
    """Numbers as text that does not change with the last bits of a matrix product, which depend on the number of threads."""
    rounded: list[Any] = torch.round(values, decimals=6).tolist()
    return rounded


def span(coordinates: Tensor) -> float:
    """How far a plane goes each way, for nearly all of the codes on it."""
    return max(3.0, torch.quantile(coordinates.abs(), 0.995).item())


@torch.no_grad()
def explorer(test: EncodedTestSet, axes: list[int], sliders: list[int], seed: int) -> tuple[dict[str, Any], str]:
    """What the page's script is given of the model and of test images: a description, and the data that it points into.

    Args:
        test: the model and the test set.
        axes: the dimensions of the first plane, two if there are two.
        sliders: the dimensions that have one.
        seed: of the noise.
    """
    blob, model, examples = Blob(), test.model, test.examples[:EXPLORED]
    pixels = examples.pixels
    layers = layer_descriptions(model.decoder, blob)
    mu, sigma = encode(model, examples)
    terms = elbo_terms_in_batches(model, examples, stream_key(seed, Stream.EVALUATE, pixels.device))
    prior = model.sample_prior(stream_key(seed, Stream.PRIOR, pixels.device), len(mu))
    centre = mu.mean(0) if model.is_deterministic else torch.zeros_like(mu[0])
    *colours, height, width = model.image_shape
    held = min(len(pixels), max(1, PIXEL_BYTES // model.pixels))
    found = planes(test, mu, axes, blob)
    return {
        "layers": layers,
        "levels": LEVELS if is_large(model.decoder) else None,
        "likelihood": type(model.likelihood).__name__.lower(),
        "latent_dim": model.latent_dim,
        "is_deterministic": model.is_deterministic,
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
        # As decimals: nats are shown to a tenth, which is finer than half precision.
        "terms": [
            [round(value, 2) for value in image] for image in torch.stack([terms.distortion, terms.rate], dim=1).tolist()
        ],
        "blob": {"mu": blob.add(mu), "sigma": blob.add(sigma), "pixels": blob.add(pixels[:held])},
        "error": storage_error(model, torch.cat([mu, prior])),
    }, blob.packed()
