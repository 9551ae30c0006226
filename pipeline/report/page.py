"""The report as one page: no server, no network; numbers, figures, and a latent space that is decoded in the browser."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.config.keys import flatten
from pipeline.evaluation.collapse import verdict
from pipeline.evaluation.model_card import report_cells
from pipeline.models.codes import EncodedTestSet, elbo_terms_in_batches, encode
from pipeline.models.metadata import ModelMetadata
from pipeline.models.vae import VAE
from pipeline.runtime.files import write_text
from pipeline.runtime.noise_streams import Stream, stream_key
from vae_ext import standard_normal

PARTS = Path(__file__).parent / "web"
EXPLORED = 1000  # test images, the first
MAX_CHANGES = 6  # parameters in the summary
MAIN = ("beta", "model.likelihood", "model.hidden", "model.latent_dim", "train.epochs")  # of a run that is no recipe's
# Figures have 130 pixels to an inch: at this scale their smallest text has the size of a footnote.
LEGIBLE = 0.55
CAPTIONS = {
    "learning_curves": "After each epoch, on training and validation images.",
    "reconstructions": "The first test images; their posteriors' means and samples decoded; samples of p(x|z), with its noise.",
    "extremes": "The test images that the model explains best, middling and worst, each above its reconstruction.",
    "samples": "E[x|z] of z drawn from the prior N(0, 1).",
    "manifold": "E[x|z] over the plane of the two latent dimensions.",
    "interpolations": "E[x|z] on straight lines between two codes. The point half-way should be one image, not two overlaid.",
    "traversals": "E[x|z] along each active dimension, with the others fixed.",
    "latent": "Codes of test images. The decoder was not trained on the gaps between them.",
    "kl_per_dimension": "The rate of each latent dimension, largest first.",
    "nll": "The bound on -log p(x) falls with the number of importance samples; where it is flat, it is near.",
}


class Blob:
    """Arrays one after the other, each on a multiple of two bytes; ``at`` says where, as [offset, length]."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def add(self, values: Tensor) -> list[int]:
        """Bytes as they are, all else in half precision."""
        array = values.detach().cpu().numpy()
        if array.dtype != np.uint8:
            array = array.astype("<f2")
        self.bytes += bytes(len(self.bytes) % 2)
        offset = len(self.bytes)
        self.bytes += array.tobytes()
        return [offset, array.size]

    def packed(self) -> str:
        """For a ``script`` element."""
        return base64.b64encode(gzip.compress(bytes(self.bytes), mtime=0)).decode()


def layer_descriptions(decoder: Iterable[nn.Module], blob: Blob) -> list[dict[str, Any]]:
    """The decoder's layers as the page's script applies them, their weights in the blob."""
    layers: list[dict[str, Any]] = []
    size: tuple[int, ...] = ()
    for layer in decoder:
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
            assert layer.bias is not None
            layers.append({"weight": blob.add(layer.weight), "bias": blob.add(layer.bias)})
        if isinstance(layer, nn.Linear):
            layers[-1]["kind"] = "linear"
        elif isinstance(layer, nn.ConvTranspose2d):
            kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
            added = layer.output_padding
            to = [(side - 1) * stride - 2 * padding + kernel + more for side, more in zip(size[1:], added, strict=True)]
            about = {"inputs": layer.in_channels, "outputs": layer.out_channels, "size": size[1:], "to": to}
            layers[-1] |= {"kind": "conv_transpose", **about, "kernel": kernel, "stride": stride, "padding": padding}
            size = (layer.out_channels, *to)
        elif isinstance(layer, nn.Unflatten):
            size = tuple(layer.unflattened_size)
        elif isinstance(layer, nn.ReLU | nn.Tanh):
            layers.append({"kind": type(layer).__name__.lower()})
        elif not isinstance(layer, nn.Flatten):
            raise TypeError(f"{layer}: the page's script has no such layer")
    return layers


@torch.no_grad()
def halving_error(model: VAE, z: Tensor) -> float:
    """The most that any pixel of E[x|z] changes by the decoder's weights and z in half precision."""
    halved = {name: p.half().to(p.dtype) for name, p in model.decoder.named_parameters()}
    decoded = torch.func.functional_call(model.decoder, halved, z.half().to(z.dtype))
    return (model.likelihood.mean(model.decode(z)) - model.likelihood.mean(decoded)).abs().max().item()


@torch.no_grad()
def explorer(test: EncodedTestSet, axes: list[int], sliders: list[int], seed: int) -> tuple[dict[str, Any], str]:
    """What the page's script is given of the model and of test images: a description, and the data that it points into."""
    blob, model, pixels = Blob(), test.model, test.pixels[:EXPLORED]
    layers = layer_descriptions(model.decoder, blob)
    mu, sigma = encode(model, pixels)
    terms = elbo_terms_in_batches(model, pixels, stream_key(seed, Stream.EVALUATE, pixels.device))
    prior = standard_normal(stream_key(seed, Stream.PRIOR, pixels.device), *mu.shape)
    centre = mu.mean(0) if model.is_deterministic else torch.zeros_like(mu[0])
    *colours, height, width = model.image_shape
    return {
        "layers": layers,
        "likelihood": type(model.likelihood).__name__.lower(),
        "latent_dim": model.latent_dim,
        "is_deterministic": model.is_deterministic,
        "channels": math.prod(colours),
        "height": height,
        "width": width,
        "axes": axes,
        "sliders": sliders,
        "centre": centre.tolist(),
        "span": max(3.0, torch.quantile(mu[:, axes].abs(), 0.995).item()),
        "count": len(pixels),
        "classes": None if test.labels is None else test.labels[:EXPLORED].tolist(),
        "names": test.classes,
        # As decimals: nats are shown to a tenth, which is finer than half precision.
        "terms": [
            [round(value, 2) for value in image] for image in torch.stack([terms.distortion, terms.rate], dim=1).tolist()
        ],
        "blob": {"mu": blob.add(mu), "sigma": blob.add(sigma), "pixels": blob.add(pixels)},
        "error": halving_error(model, torch.cat([mu, prior])),
    }, blob.packed()


def scrolling(label: str, content: str) -> str:
    """What scrolls in itself where the screen is narrower, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">\n{content}\n</div>'


def summary(
    metadata: ModelMetadata, dimensions: pd.DataFrame, report: pd.DataFrame, changes: dict[str, Any] | None
) -> dict[str, str]:
    """What the run is and what it found, for the first screen: texts by heading."""
    data = metadata.data
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
    is_autoencoder = metadata.params.model.posterior == "deterministic"
    shown = {"distortion": "Distortion"} if is_autoencoder else {"elbo": "ELBO", "nll": "NLL"}
    found = {
        shown[name]: f"{value}{error and f' ± {error}'} {unit} per image"
        for name, value, error, unit, _ in report_cells(report[report.index.isin(list(shown))])
    }
    given = flatten(asdict(metadata.params)) if changes is None else changes
    named = [f"{key} {json.dumps(given[key])}" for key in (MAIN if changes is None else given)]
    more = [f"and {len(named) - MAX_CHANGES} more"] if len(named) > MAX_CHANGES else []
    return {
        "Data": f"{data.source}: {counts} images",
        **found,
        "Code" if is_autoencoder else "Posterior": f"{verdict(dimensions).capitalize()}.",
        "Parameters": ("" if changes is None else "params.yaml with ") + ", ".join(named[:MAX_CHANGES] + more),
        "Seed": str(metadata.params.seed),
    }


def figure_element(name: str, png: bytes) -> str:
    """A figure with its caption."""
    title = name.replace("_", " ")
    width, height = Image.open(io.BytesIO(png)).size
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    size = f'width="{width}" height="{height}" style="--legible: {round(LEGIBLE * width)}px"'
    image = scrolling(title, f'<img src="{source}" alt="{title}" {size}>')
    return f"<figure>{image}<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>"


def origin(metadata: ModelMetadata) -> str:
    """A table of the data and versions that made a model."""
    rows = {"training images, sha256": metadata.data.sha256["train_images.npy"], **metadata.versions}
    lines = (f'<tr><th scope="row">{name}</th><td>{html.escape(value)}</td></tr>' for name, value in rows.items())
    return "\n".join(["<table>", *lines, "</table>"])


def html_table(report: pd.DataFrame) -> str:
    """The evaluation's table."""
    headings = {"quantity": "", "value": "number", "standard error": "number", "unit": "", "definition": ""}
    cells = [f'<th scope="col" class="{kind}">{heading}</th>' for heading, kind in headings.items()]
    lines = ["<table>", "<tr>" + "".join(cells) + "</tr>"]
    for quantity, value, error, *words in report_cells(report):
        cells = [f'<th scope="row">{quantity}</th>', *(f'<td class="number">{number}</td>' for number in (value, error))]
        lines.append("<tr>" + "".join([*cells, *(f"<td>{html.escape(word)}</td>" for word in words)]) + "</tr>")
    return "\n".join([*lines, "</table>"])


def write_page(
    path: Path,
    test: EncodedTestSet,
    dimensions: pd.DataFrame,
    report: pd.DataFrame,
    figures: Path,
    seed: int,
    changes: dict[str, Any] | None,
) -> None:
    """Writes the page: the same bytes each time, so without date, time or machine, which would change dvc.lock at each run.

    Args:
        test: the model and the test set.
        dimensions: of the evaluation, those of most KL first.
        report: of the evaluation.
        figures: the folder of the PNGs.
        seed: of the noise.
        changes: a recipe's parameters that are not those of params.yaml, by dotted keys; None: the run is no recipe's.
    """
    by_use = [int(i) for i in dimensions["dimension"]]
    active = [int(i) for i in dimensions.loc[dimensions["active"], "dimension"]]
    axes = (active + [i for i in by_use if i not in active])[:2]
    others = [i for i in active if i not in axes]
    description, data = explorer(test, axes, others, seed)
    span = description["span"]
    slider = '<label>dimension {0}<input id="z{0}" type="range" min="-{1:.3f}" max="{1:.3f}" step="0.01"><span></span></label>'
    files = {name: figures / f"{name}.png" for name in CAPTIONS}
    first = summary(test.metadata, dimensions, report, changes)
    params = flatten(asdict(test.metadata.params))
    listing = "\n".join(f"{key}: {json.dumps(value)}" for key, value in params.items())
    page = Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        title="A variational autoencoder" if not test.model.is_deterministic else "An autoencoder",
        summary="\n".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(text)}</dd>" for key, text in first.items()),
        style=(PARTS / "style.css").read_text(encoding="utf-8"),
        sliders="\n".join(slider.format(i, span) for i in others),
        count=f"{description['count']:,}",
        error=f"{description['error']:.2g}",
        report=scrolling("Numbers", html_table(report)),
        figures="\n".join(figure_element(name, file.read_bytes()) for name, file in files.items() if file.exists()),
        origin=scrolling("Data and versions", origin(test.metadata)),
        params=scrolling("Parameters", f"<pre>{html.escape(listing)}</pre>"),
        data=data,
        model=json.dumps(description).replace("<", "\\u003c"),  # a class may be named </script>
        script=(PARTS / "explorer.js").read_text(encoding="utf-8"),
    )
    write_text(path, page)
