"""Stage 3: evaluates the model on the test set; each quantity has its definition and standard error."""

from __future__ import annotations

import math

import pandas as pd

from pipeline.config.paths import DEFAULT, RunPaths
from pipeline.config.stage import run_stage
from pipeline.config.validation import load_params
from pipeline.evaluation.collapse import verdict
from pipeline.evaluation.metrics import METRICS, TRACKED, evaluate, mean_and_error, quantities
from pipeline.evaluation.model_card import write_card
from pipeline.models.serialization import load_model_of_prepared_data
from pipeline.runtime.device import choose_device
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_csv, write_json
from pipeline.runtime.lock import locked

COLUMNS = ["value", "standard_error", "unit", "definition"]


def main(paths: RunPaths = DEFAULT) -> None:
    params = load_params(paths.params)
    with locked(paths.results, "evaluate"):
        device = choose_device()
        model, metadata = load_model_of_prepared_data(paths.weights, device)
        images, dimensions, by_samples = evaluate(model, params, device)

        estimates = {name: mean_and_error(values) for name, values in images.items()}
        estimates["active_units"] = (int(dimensions["active"].sum()), math.nan)
        rows = {name: (*estimates[name], *definition) for name, definition in quantities(model).items() if name in estimates}
        metrics = {name: rows[name][0] for name in METRICS if name in rows}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise UserError(f"{paths.weights}: expected finite results, got {value} as {name}: its training diverged")
        curve = {samples: mean_and_error(nll) for samples, nll in by_samples.items()}  # empty for an autoencoder
        tables = {
            "dimensions": dimensions,
            "nll": pd.DataFrame.from_dict(curve, orient="index", columns=["nll", "standard_error"]).rename_axis("samples"),
            "report": pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS).rename_axis("quantity"),
        }
        for name, table in tables.items():
            write_csv(paths.tables / f"{name}.csv", table, index=True)
        write_json(paths.metrics, {name: metrics[name] for name in TRACKED if name in metrics})
        write_card(paths.card, paths.weights, metadata, tables["report"], metrics, verdict(dimensions))
        for name, (value, error, *_) in rows.items():
            print(f"{name:>20} {value:10.4f}" + ("" if math.isnan(error) else f" +- {error:.4f}"))
        print(verdict(dimensions))


if __name__ == "__main__":
    run_stage(main, __doc__)
