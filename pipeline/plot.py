"""Stage 4: figures of what was trained, as PNG, and a page that holds them all."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import torch

from pipeline.config.params import Params
from pipeline.config.paths import DEFAULT, RunPaths
from pipeline.config.stage import run_stage
from pipeline.config.validation import load_params
from pipeline.data.batches import test_pixels
from pipeline.data.prepared import read_split
from pipeline.figures.curves import learning_curves, nll_by_samples
from pipeline.figures.decodings import decoding_figures
from pipeline.figures.latent import kl_per_dimension, latent_plane
from pipeline.models.codes import posterior_means
from pipeline.models.metadata import ModelMetadata
from pipeline.models.serialization import load_model_of_prepared_data
from pipeline.report.page import write_page
from pipeline.runtime.device import choose_device
from pipeline.runtime.files import whole_folder
from pipeline.runtime.lock import locked
from pipeline.runtime.progress import announce


def origin(metadata: ModelMetadata) -> dict[str, str]:
    """What a run was made of, for who wants to make it again; ``metadata``: its weights' header.

    Not when, how fast or where: the page is an output, which has the same bytes each time. That is in time.json.
    """
    data = metadata.data
    return {
        "data": f"{data.source}: {', '.join(f'{split} {count:,}' for split, count in data.counts.items())}",
        "training images, sha256": data.sha256["train_images.npy"],
        **metadata.versions,
    }


def main(place: RunPaths = DEFAULT) -> None:
    params = load_params(place.params)
    with locked(place.results, "plot"):
        plot(params, place)


def plot(params: Params, place: RunPaths) -> None:
    device = choose_device()
    model, metadata = load_model_of_prepared_data(place.weights, device)
    pixels, labels, names = test_pixels(params, device), read_split("test").labels, metadata.data.classes or []
    announce(f"codes of {len(pixels):,} test images")
    mu = posterior_means(model, pixels)
    dimensions = pd.read_csv(place.tables / "dimensions.csv")
    dimensions = dimensions.sort_values("mean_variance" if model.is_deterministic else "kl", ascending=False)
    active = [int(i) for i in dimensions.loc[dimensions["active"], "dimension"]]

    announce("figures")
    with whole_folder(place.figures) as folder:
        learning_curves(place.curves, folder)
        latent_plane(folder / "latent.png", mu, labels, names)
        if not model.is_deterministic:
            kl_per_dimension(dimensions, folder / "kl_per_dimension.png")
            nll_by_samples(pd.read_csv(place.tables / "nll.csv"), folder / "nll.png")
        decoding_figures(model, params, pixels, mu, active, folder)
    announce("the page")
    write_page(
        place.page,
        model=model,
        pixels=pixels,
        labels=None if labels is None else torch.tensor(labels.astype(np.int64)),
        names=names,
        dimensions=dimensions,
        report=pd.read_csv(place.tables / "report.csv", index_col="quantity"),
        figures=place.figures,
        params=asdict(metadata.params),
        made=origin(metadata),
        seed=params.seed,
    )
    print(f"{place.figures}: {', '.join(sorted(path.name for path in place.figures.glob('*.png')))}")
    print(f"{place.page}: {place.page.stat().st_size / 1e6:.1f} MB, opens by a double click")


if __name__ == "__main__":
    run_stage(main, __doc__)
