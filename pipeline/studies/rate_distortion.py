"""Plots rate against distortion for DVC's experiments with different beta. `make sweep` runs some, and plots them.

Reads the last commit's experiments. Those that differ only in beta form one curve; parameters used only in evaluation, such as
the number of importance samples, change neither rate nor distortion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from pipeline.config.paths import PARAMS
from pipeline.figures.style import figure
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_csv
from pipeline.runtime.main import run
from pipeline.studies.experiments import affects_metrics
from pipeline.studies.runs import experiments

SAME = {"beta", "evaluate"}  # may differ within a curve: beta, and parameters that do not affect training
METRICS = ["elbo", "rate", "distortion", "nll", "active_units"]


def betas() -> pd.DataFrame:
    """Returns a row per experiment: beta, its other differences from the current params.yaml, and its metrics."""
    rows = []
    for one in experiments():
        if "rate" in one.report.index:
            moving = [
                key for key in one.changes if key == "seed" or (affects_metrics(key) and key.partition(".")[0] not in SAME)
            ]
            others = ", ".join(f"{key}={one.changes[key]}" for key in moving)
            rows.append({"beta": one.params["beta"], "else": others, **{name: one.value(name) for name in METRICS}})
    return pd.DataFrame(rows, columns=["beta", "else", *METRICS]).sort_values(["else", "beta"], ignore_index=True)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draws the curves. Lines of slope -1 have equal ELBO, since ELBO = -(distortion + rate)."""
    with figure(path, width=6.8, height=5) as fig:
        axes = fig.subplots()
        for others, curve in table.groupby("else"):
            axes.plot(curve["rate"], curve["distortion"], "o-", label=str(others) or str(PARAMS))
            for beta, rate, distortion in curve[["beta", "rate", "distortion"]].itertuples(index=False):
                axes.annotate(f"β {beta:g}", (rate, distortion), xytext=(5, 5), textcoords="offset points", fontsize=9)
        axes.margins(x=0.09)  # for the labels
        best = table.nlargest(1, "elbo").iloc[0]
        label = f"ELBO {best['elbo']:.1f}, the best of these"
        axes.axline((best["rate"], best["distortion"]), slope=-1, color="0.7", linewidth=1, label=label)
        axes.set(
            title="What beta trades: test set, nats per image",
            xlabel="rate  KL(q(z|x) ‖ p(z))",
            ylabel="distortion  −E log p(x|z)",
        )
        axes.legend()


def main(folder: Path) -> None:
    table = betas()
    if table["beta"].nunique() < 2:
        raise UserError(
            f"dvc exp show: expected experiments of at least two betas, got {table['beta'].nunique()}; make sweep runs some"
        )
    path = folder / "rate_distortion.png"
    write_csv(path.with_suffix(".csv"), table)
    draw(table, path)
    print(table.to_string(index=False, float_format="%.2f"))
    print(f"{path}: written")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where rate_distortion.png and .csv are written")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: main(arguments().folder))
