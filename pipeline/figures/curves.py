"""Curves: of training, and of the NLL against the number of samples."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.figures.style import TRAIN_COLOR, VALIDATION_COLOR, figure

PANELS = {"elbo": "ELBO: higher is better", "distortion": "distortion  −E log p(x|z)", "rate": "rate  KL(q(z|x) ‖ p(z))"}
DASHES = ("-", "--", "-.", ":")  # runs are told apart by these too, where colours are not


def learning_curves(curves: Path, folder: Path) -> None:
    """ELBO, distortion and rate against the epoch, train and validation; of an autoencoder, the distortion."""
    found = [name for name in PANELS if (curves / f"plots/metrics/validation/{name}.tsv").exists()]
    with figure(folder / "learning_curves.png", width=0.5 + 3.5 * len(found), height=3.7) as fig:
        fig.suptitle("Look for overfitting: validation worsens while train improves", x=0.01, ha="left", fontsize=11)
        for axes, name in zip(fig.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            values = []
            for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
                curve = pd.read_csv(curves / f"plots/metrics/{split}/{name}.tsv", sep="\t")
                marker = "o" if len(curve) == 1 else None
                axes.plot(curve["step"] + 1, curve[name], color=color, label=split, marker=marker)
                # The first epoch's training average, which begins with untrained weights, may leave the frame.
                values += curve[name].tolist()[split == "train" :]
            axes.set(title=PANELS[name], xlabel="epoch", ylabel="nats per image")
            frame(axes, values)
        fig.axes[0].legend(loc="best")


def learning_curves_of_runs(curves: dict[str, dict[str, pd.DataFrame]], path: Path) -> None:
    """Validation curves of several runs over each other; ``curves``: by run, then by quantity, with columns step and it."""
    found = [name for name in PANELS if any(name in run for run in curves.values())]
    with figure(path, width=0.5 + 3.5 * len(found), height=3.8) as fig:
        panels = fig.subplots(1, len(found), squeeze=False)[0]
        for axes, name in zip(panels, found, strict=True):
            values = []
            for i, (run, quantities) in enumerate(curves.items()):
                if name in quantities:
                    curve = quantities[name]
                    axes.plot(curve["step"] + 1, curve[name], label=run, color=f"C{i % 10}", linestyle=DASHES[i % len(DASHES)])
                    values += curve[name].tolist()
            axes.set(title=PANELS[name], xlabel="epoch", ylabel="nats per image")
            frame(axes, values)
        fig.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def frame(axes: Axes, values: list[float]) -> None:
    """A margin around these values, matplotlib's own around a single one; and epochs as whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if (margin := 0.06 * (max(values) - min(values))) > 0:
        axes.set_ylim(min(values) - margin, max(values) + margin)


def nll_by_samples(table: pd.DataFrame, path: Path) -> None:
    """How the bound on -log p(x) falls with the number of samples, with its standard error."""
    with figure(path, width=6.8, height=3.4) as fig:
        axes = fig.subplots()
        samples, nll, error = table["samples"], table["nll"], table["standard_error"]
        label = "standard error over images"
        axes.fill_between(samples, nll - error, nll + error, color=VALIDATION_COLOR, alpha=0.15, linewidth=0, label=label)
        axes.plot(samples, nll, "o-", color=VALIDATION_COLOR, label="importance-weighted bound")
        title = f"NLL with {samples.iloc[-1]:,} samples: {nll.iloc[-1]:.2f} nats per image (converged where flat)"
        axes.set(title=title, xlabel="samples of z per image", ylabel="nats per image", xscale="log")
        axes.legend()
