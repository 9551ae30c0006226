"""Stage 4: figures of what was trained, as PNG, and a page that holds them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pipeline.class_names import legible
from pipeline.cli import run_stage
from pipeline.data import Classes, as_float, read_split
from pipeline.decodings import decoding_figures
from pipeline.device import choose_device
from pipeline.figure import figure
from pipeline.files import whole_folder
from pipeline.images import test_pixels
from pipeline.lock import locked
from pipeline.page import write_page
from pipeline.params import Params, load_params
from pipeline.paths import DEFAULT, Place
from pipeline.pictures import plane, scatter
from pipeline.progress import announce
from pipeline.weights import load_model_of_prepared_data

ENCODED_AT_ONCE = 1000
NAMED = 40  # classes, at most, whose names have room beside a figure
BAR_POINTS = 280  # height of the bar that they stand beside
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


def latent_plane(path: Path, mu: Tensor, labels: Classes | None, names: list[str]) -> None:
    """Posterior means: coloured by class, if there are some, and how dense they lie."""
    points, (across, up) = plane(mu)
    with figure(path, width=11.5, height=5.2) as fig:
        classes, density = fig.subplots(1, 2, sharex=True, sharey=True)
        drawn = scatter(classes, points, labels, len(names))
        classes.set(title=f"Codes (posterior means) of {len(points):,} test images", xlabel=across, ylabel=up)
        if labels is not None:
            named = len(names) <= NAMED
            bar = fig.colorbar(drawn, ax=classes, label="class" if named else f"class, by number, of {len(names):,}")
            bar.solids.set_alpha(1)  # type: ignore[union-attr]
            if named:
                shown, families = legible(names)
                bar.set_ticks(range(len(names)), labels=[name.replace("$", r"\$") for name in shown], fontfamily=families)
                bar.ax.tick_params(labelsize=min(10, BAR_POINTS / len(names)))
        cells = density.hexbin(points[:, 0], points[:, 1], gridsize=40, cmap="Greys", mincnt=1, linewidths=0)
        density.set(title="How dense they lie", xlabel=across)
        fig.colorbar(cells, ax=density, label="images a cell")


def kl_per_dimension(table: pd.DataFrame, path: Path) -> None:
    """The rate, a latent dimension each, largest first."""
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


def nll_by_samples(table: pd.DataFrame, path: Path) -> None:
    """How the bound on -log p(x) falls with the number of samples, and how sure it is."""
    with figure(path, width=6.8, height=3.4) as fig:
        axes = fig.subplots()
        axes.fill_between(
            table["samples"],
            table["nll"] - table["standard_error"],
            table["nll"] + table["standard_error"],
            color=VALIDATION_COLOR,
            alpha=0.15,
            linewidth=0,
            label="standard error over images",
        )
        axes.plot(table["samples"], table["nll"], "o-", color=VALIDATION_COLOR, label="importance-weighted bound")
        last = table.iloc[-1]
        title = f"NLL: {last['nll']:.2f} nats by {last['samples']:,.0f} samples an image"
        axes.set(title=title, xlabel="samples", ylabel="nats an image", xscale="log")
        axes.legend()


def origin(made: dict[str, Any]) -> dict[str, str]:
    """What a run was made of, for who wants to make it again; ``made``: the header of its weights.

    Not when, how fast or where: the page is an output, which has the same bytes each time. That is in time.json.
    """
    data = made["data"]
    return {
        "data": f"{data['source']}: {', '.join(f'{split} {count:,}' for split, count in data['counts'].items())}",
        "training images, sha256": data["sha256"]["train_images.npy"],
        **made["versions"],
    }


def main(place: Place = DEFAULT) -> None:
    params = load_params(place.params)
    with locked(place.results, "plot"):
        plot(params, place)


def plot(params: Params, place: Place) -> None:
    device = choose_device()
    model, made = load_model_of_prepared_data(place.weights, device)
    pixels, labels, names = test_pixels(params, device), read_split("test").labels, made["data"]["classes"] or []
    announce(f"codes of {len(pixels):,} test images")
    with torch.no_grad():
        mu = torch.cat([model.mu(as_float(batch)) for batch in pixels.split(ENCODED_AT_ONCE)])
    dimensions = pd.read_csv(place.tables / "dimensions.csv")
    dimensions = dimensions.sort_values("mean_variance" if model.is_point else "kl", ascending=False)
    active = [int(i) for i in dimensions.loc[dimensions["active"], "dimension"]]

    announce("figures")
    with whole_folder(place.figures) as folder:
        learning_curves(place.curves, folder)
        latent_plane(folder / "latent.png", mu, labels, names)
        if not model.is_point:
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
        report=pd.read_csv(place.tables / "report.csv"),
        figures=place.figures,
        params=made["params"],
        made=origin(made),
        seed=params.seed,
    )
    print(f"{place.figures}: {', '.join(sorted(path.name for path in place.figures.glob('*.png')))}")
    print(f"{place.page}: {place.page.stat().st_size / 1e6:.1f} MB, opens by a double click")


if __name__ == "__main__":
    run_stage(main, __doc__)
