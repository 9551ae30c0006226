"""Measures how far the seed alone moves results: mean and standard deviation over experiments with several seeds, `make seeds`.

Writes results/seeds.csv, a row per seed; results/expected.json, the band that `make verify` checks a run against; and the
validation curves of all seeds, as results/seeds_curves.csv and, as mean and range per epoch, results/seeds_curves.png.
"""

from __future__ import annotations

import platform

import pandas as pd
import torch

from pipeline.config.paths import EXPECTED, RESULTS
from pipeline.evaluation.metrics import METRICS
from pipeline.figures.curves import Curves, learning_curves_of_runs
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_csv, write_json
from pipeline.runtime.machine import machine
from pipeline.runtime.main import run
from pipeline.studies.experiments import current_params
from pipeline.studies.runs import experiments

TABLE, CURVES = RESULTS / "seeds.csv", RESULTS / "seeds_curves.csv"
# Half-width of the band in standard deviations. With five runs, Student's t puts a sixth value inside 4.60 sqrt(1 + 1/5) = 5.04
# in 99% of cases; fewer runs would need a wider band.
WIDTH, FEWEST = 5.0, 5
COUNTS = {"active_units"}


def band(values: pd.Series, is_count: bool = False) -> dict[str, float]:
    """Returns mean, standard deviation and limits of a quantity; a count's limits are at least one away from the mean."""
    mean, deviation = float(values.mean()), float(values.std())
    reach = max(WIDTH * deviation, 1.0 if is_count else 0.0)
    return {"mean": mean, "standard_deviation": deviation, "low": mean - reach, "high": mean + reach}


def curves_table(curves: dict[int, Curves]) -> pd.DataFrame:
    """Returns a row per seed and epoch, and a column per quantity."""
    by_seed = {
        seed: pd.concat([curve.set_index("step")[name] for name, curve in quantities.items()], axis=1)
        for seed, quantities in curves.items()
    }
    table = pd.concat(by_seed, names=["seed", "epoch"]).reset_index()
    return table.assign(epoch=table["epoch"] + 1)


def main() -> None:
    runs = sorted((one for one in experiments() if set(one.changes) <= {"seed"}), key=lambda one: one.params["seed"])
    rows = [{"seed": one.params["seed"], **one.report["value"]} for one in runs]
    table = pd.DataFrame(rows, columns=["seed", *METRICS]).dropna(axis="columns", how="all")
    if len(table) < FEWEST:
        raise UserError(f"dvc exp show: expected runs with {FEWEST} seeds or more, got {len(table)}; see make seeds")
    quantities = {name: band(table[name], name in COUNTS) for name in table.columns[1:]}
    write_csv(TABLE, table)
    if curves := {one.params["seed"]: one.curves for one in runs if one.curves}:
        write_csv(CURVES, curves_table(curves))
        learning_curves_of_runs([(f"{len(curves)} seeds: mean and range", [*curves.values()])], CURVES.with_suffix(".png"))
    seeds, params = table["seed"].tolist(), current_params()
    made_with = {"python": platform.python_version(), "torch": torch.__version__, "machine": machine()}
    write_json(EXPECTED, {"seeds": seeds, "made_with": made_with, "quantities": quantities, "params": params})
    for name, limits in quantities.items():
        print(f"{name:>20} {limits['mean']:10.4f} +- {limits['standard_deviation']:.4f}")
    print(f"{EXPECTED}: written, from seeds {', '.join(map(str, seeds))}")


if __name__ == "__main__":
    run(main, __doc__)
