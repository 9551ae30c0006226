"""Plots training curves, and the NLL against the number of samples."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.figures.style import TRAIN_COLOR, VALIDATION_COLOR, figure

PANELS = {"elbo": "ELBO: higher is better", "distortion": "distortion  −E log p(x|z)", "rate": "rate  KL(q(z|x) ‖ p(z))"}
DASHES = ("-", "--", "-.", ":")  # distinguish runs where colours do not
MARKER = {True: "o", False: None}  # of a curve, by whether it has a single point
Curves = dict[str, pd.DataFrame]  # of a run, by quantity; columns: step, and the quantity


def learning_curves(curves: Path, folder: Path) -> None:
    """Plots ELBO, distortion and rate against the epoch, for training and validation; for an autoencoder, the distortion."""
    found = [name for name in PANELS if (curves / f"plots/metrics/validation/{name}.tsv").exists()]
    with figure(folder / "learning_curves.png", width=0.5 + 3.5 * len(found), height=3.7) as fig:
        fig.suptitle("Look for overfitting: validation worsens while train improves", x=0.01, ha="left", fontsize=11)
        for axes, name in zip(fig.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            values = []
            for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
                curve = pd.read_csv(curves / f"plots/metrics/{split}/{name}.tsv", sep="\t")
                axes.plot(curve["step"] + 1, curve[name], color=color, label=split, marker=MARKER[len(curve) == 1])
                # The training average of the first epoch includes untrained weights, and may lie outside the axes.
                values += curve[name].tolist()[split == "train" :]
            axes.set(title=PANELS[name], xlabel="epoch", ylabel="nats per image")
            frame(axes, values)
        fig.axes[0].legend(loc="best")


def learning_curves_of_runs(runs: list[tuple[str, list[Curves]]], path: Path) -> None:
    """Plots validation curves of runs on the same axes; runs that differ only in the seed as their mean and range.

    Args:
        runs: a label and one or more runs' curves for each line.
    """
    found = [name for name in PANELS if any(name in curves for _, repeats in runs for curves in repeats)]
    legend_height = 0.2 * math.ceil(len(runs) / len(found))
    with figure(path, width=0.5 + 3.5 * len(found), height=3.5 + legend_height) as fig:
        lines: dict[int, Line2D] = {}
        for axes, name in zip(fig.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            values = []
            for i, (label, repeats) in enumerate(runs):
                if curves := [one[name].set_index("step")[name] for one in repeats if name in one]:
                    table = pd.concat(curves, axis=1)
                    epochs, low, high = table.index + 1, table.min(axis=1), table.max(axis=1)
                    style = {"color": f"C{i % 10}", "linestyle": DASHES[i % len(DASHES)], "marker": MARKER[len(table) == 1]}
                    (lines[i],) = axes.plot(epochs, table.mean(axis=1), label=label, **style)
                    if len(curves) > 1:
                        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0)
                    values += [*low, *high]
            axes.set(title=PANELS[name], xlabel="epoch", ylabel="nats per image")
            frame(axes, values)
        fig.legend(handles=[lines[i] for i in sorted(lines)], loc="outside lower center", ncols=len(found))


def frame(axes: Axes, values: list[float]) -> None:
    """Sets margins around these values (matplotlib's default for a single one), and integer epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if (margin := 0.06 * (max(values) - min(values))) > 0:
        axes.set_ylim(min(values) - margin, max(values) + margin)


def nll_by_samples(table: pd.DataFrame, path: Path) -> None:
    """Plots the bound on -log p(x) against the number of samples, with its standard error."""
    with figure(path, width=6.8, height=3.4) as fig:
        axes = fig.subplots()
        samples, nll, error = table["samples"], table["nll"], table["standard_error"]
        label = "standard error over images"
        axes.fill_between(samples, nll - error, nll + error, color=VALIDATION_COLOR, alpha=0.15, linewidth=0, label=label)
        axes.plot(samples, nll, "o-", color=VALIDATION_COLOR, label="importance-weighted bound")
        title = f"NLL with {samples.iloc[-1]:,} samples: {nll.iloc[-1]:.2f} nats per image (converged where flat)"
        axes.set(title=title, xlabel="samples of z per image", ylabel="nats per image", xscale="log")
        axes.legend()
