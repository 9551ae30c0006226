"""Writes the table of all recipes: recipes/results.csv, recipes/results.md, and the figures that need several models.

A recipe that has not been run is left out, with a note.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.paths import RECIPES, run_paths
from pipeline.config.recipes import INDEX
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_csv, write_text
from pipeline.runtime.main import run
from pipeline.studies.recipe_figures import comparisons
from pipeline.studies.runs import recipe_run

TABLE, REPORT = RECIPES / "results.csv", RECIPES / "results.md"
COLUMNS = ["elbo", "rate", "distortion", "nll", "active_units", "seconds"]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def table_row(name: str) -> dict[str, Any]:
    """Returns a recipe's row of the table."""
    paths = run_paths(name)
    found, about = recipe_run(name), read_json(paths.about)
    return {
        "recipe": name,
        "system": about["system"],
        "parameters": ", ".join(f"{key}={value}" for key, value in about["changes"].items()),
        "epochs": found.params["train.epochs"],
        **{column: found.value(column) for column in COLUMNS[:-1]},
        "seconds": read_json(paths.time)["seconds"],
        "published": "{metric} {value:g}: {source}".format(**about["published"]) if about["published"] else "",
    }


def report(table: pd.DataFrame, figures: list[Path]) -> str:
    """Formats the table, the figures, and a paragraph per recipe as Markdown."""
    lines = [
        "# Recipes",
        "",
        "MNIST's test set, in nats per image; NLL by importance weighting; seconds of training on the machine that wrote this.",
        "An autoencoder has no ELBO. Gaussian and categorical likelihoods compare with no other row.",
        "`make recipe` with a name draws that recipe's own figures, into `recipes/results/NAME/plot`, and its page.",
        "",
        "| recipe | epochs | ELBO | rate | distortion | NLL | active units | seconds | published |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for _, row in table.iterrows():
        cells = [f"[`{row['recipe']}`](#{row['recipe']})", f"{row['epochs']:.0f}"]
        cells += [rounded(row[column], 2) for column in ("elbo", "rate", "distortion", "nll")]
        cells += [rounded(row["active_units"], 0), rounded(row["seconds"], 0), row["published"]]
        lines.append(f"| {' | '.join(cells)} |")
    for path in figures:
        lines += ["", f"![{path.stem}]({path.relative_to(REPORT.parent)})"]
    for _, row in table.iterrows():
        about = read_json(run_paths(row["recipe"]).about)
        lines += ["", f"## {row['recipe']}", "", f"{about['system']}: `{row['parameters']}`.", "", about["look"]]
        if about["faults"]:
            lines += ["", f"*In the source:* {about['faults']}"]
    return "\n".join(lines) + "\n"


def rounded(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def main() -> None:
    recipes = read_json(INDEX)["recipes"]
    finished = [name for name in recipes if run_paths(name).metrics.is_file()]
    if not finished:
        raise UserError(f"{RECIPES / 'results'}: expected results of at least one recipe, got none; make recipes")
    for name in recipes:
        if name not in finished:
            print(f"{name}: not run yet, left out; make recipe NAME={name}")
    table = pd.DataFrame([table_row(name) for name in finished])
    write_csv(TABLE, table)
    write_text(REPORT, report(table, comparisons(finished)))
    print(table[["recipe", "epochs", *COLUMNS]].to_string(index=False, float_format="%.2f"))
    print(f"{REPORT}: written")


if __name__ == "__main__":
    run(main, __doc__)
