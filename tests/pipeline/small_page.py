"""The report page of a small untrained model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pipeline.data.tensors import Examples
from pipeline.figures.style import figure
from pipeline.models.codes import EncodedTestSet, encode
from pipeline.models.kinds import build_model
from pipeline.models.metadata import DataInfo, ModelMetadata
from pipeline.models.vae import VAE
from pipeline.report.page import write_page
from tests.pipeline.browser import opened as opened_page
from tests.plain import plain_params

SHAPE, COUNT = (8, 6), 30


def page_of(
    folder: Path, shape: tuple[int, ...] = SHAPE, recipe: dict[str, Any] | None = None, count: int = COUNT, **changes: Any
) -> tuple[Path, VAE]:
    """Writes the page of an untrained model with distinct posteriors; with ``recipe``, as a recipe's with such changes."""
    torch.manual_seed(0)
    params = plain_params(**{"hidden": [32], "latent_dim": 4, **changes})
    model = build_model(shape, params.model, 10)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
    pixels = torch.randint(0, 256, (count, math.prod(shape)), dtype=torch.uint8)
    dimensions = [i for i in (1, 0, *range(2, 20)) if i < model.latent_dim]
    table = pd.DataFrame({"dimension": dimensions, "active": [i != 3 for i in dimensions], "kl": 1.0})
    quantity = "distortion" if model.is_deterministic else "elbo"
    report = pd.DataFrame([[-99.5, 0.25, "nats", "-(distortion < rate)"]], index=[quantity])
    report.columns = pd.Index(["value", "standard_error", "unit", "definition"])
    with figure(folder / "samples.png", width=11, height=2) as fig:
        fig.subplots()
    path = folder / "index.html"
    classes = [*map(str, range(9)), "</script><!--"]
    counts = {"train": 20_000, "test": COUNT}
    data = DataInfo(source="<mnist>", classes=classes, values="grey", counts=counts, sha256={"train_images.npy": "0"})
    metadata = ModelMetadata(image_shape=[*shape], params=params, data=data, versions={"Python": "3"})
    examples = Examples(pixels, torch.arange(count) % 10)
    test = EncodedTestSet(model, metadata, examples, encode(model, examples)[0])
    write_page(path, test, table, report, folder, seed=1, changes=recipe)
    return path, model


def opened(browser: Any, path: Path, **context: Any) -> Any:
    """Opens the page, and waits until it is ready."""
    page = opened_page(browser, path, **context)
    page.wait_for_selector("body[data-ready]")
    return page
