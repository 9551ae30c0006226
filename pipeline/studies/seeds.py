"""How far the seed alone moves results: mean and standard deviation over experiments that differ in nothing else, `make seeds`.

Writes results/seeds.csv, a row per seed, and results/expected.json, the band that `make verify` holds a run to.
"""

from __future__ import annotations

import platform

import pandas as pd
import torch

from pipeline.config.paths import EXPECTED, RESULTS
from pipeline.evaluation.metrics import METRICS
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_csv, write_json
from pipeline.runtime.machine import machine
from pipeline.runtime.main import run
from pipeline.studies.experiments import current_params
from pipeline.studies.runs import experiments

TABLE = RESULTS / "seeds.csv"
# Standard deviations each way. Of five runs, by Student's t, a figure of a sixth is within them 99 times in 100: it would be
# 4.60 sqrt(1 + 1/5) = 5.04. Of fewer it would not.
WIDTH, FEWEST = 5.0, 5
COUNTS = {"active_units"}


def band(values: pd.Series, is_count: bool = False) -> dict[str, float]:
    """Mean, standard deviation and limits of a quantity; a count may be off by one at least."""
    mean, deviation = float(values.mean()), float(values.std())
    reach = max(WIDTH * deviation, 1.0 if is_count else 0.0)
    return {"mean": mean, "standard_deviation": deviation, "low": mean - reach, "high": mean + reach}


def main() -> None:
    rows = [{"seed": one.params["seed"], **one.report["value"]} for one in experiments() if set(one.changes) <= {"seed"}]
    table = pd.DataFrame(rows, columns=["seed", *METRICS]).dropna(axis="columns", how="all")
    if len(table) < FEWEST:
        raise UserError(f"dvc exp show: expected runs with {FEWEST} seeds or more, got {len(table)}; see make seeds")
    table = table.sort_values("seed")
    quantities = {name: band(table[name], name in COUNTS) for name in table.columns[1:]}
    write_csv(TABLE, table)
    seeds, params = table["seed"].tolist(), current_params()
    made_with = {"python": platform.python_version(), "torch": torch.__version__, "machine": machine()}
    write_json(EXPECTED, {"seeds": seeds, "made_with": made_with, "quantities": quantities, "params": params})
    for name, limits in quantities.items():
        print(f"{name:>20} {limits['mean']:10.4f} +- {limits['standard_deviation']:.4f}")
    print(f"{EXPECTED}: written, from seeds {', '.join(map(str, seeds))}")


if __name__ == "__main__":
    run(main, __doc__)
