"""All recipes beside each other: recipes/results.csv, recipes/results.md, and the figures that need more than one model.

A recipe that has not been run yet is left out, and said so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.paths import RECIPES, run_paths
from pipeline.config.validation import load_params
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import whole_file
from pipeline.runtime.main import run
from pipeline.studies.recipe_figures import comparisons

TABLE, REPORT = RECIPES / "results.csv", RECIPES / "results.md"
COLUMNS = ["elbo", "rate", "distortion", "nll", "active_units", "seconds"]


def row_of(name: str) -> dict[str, Any]:
    """A recipe's line of the table."""
    place = run_paths(name)
    metrics = json.loads(place.metrics.read_text(encoding="utf-8"))
    about = about_of(name)
    return {
        "recipe": name,
        "system": about["system"],
        "parameters": ", ".join(f"{key}={value}" for key, value in about["changes"].items()),
        "epochs": load_params(place.params).train.epochs,
        **{column: metrics.get(column) for column in COLUMNS[:-1]},
        "seconds": json.loads(place.time.read_text(encoding="utf-8"))["seconds"],
        "published": "{metric} {value:g}: {source}".format(**about["published"]) if about["published"] else "",
    }


def about_of(name: str) -> dict[str, Any]:
    """What a recipe says of itself, and what it changes."""
    about: dict[str, Any] = json.loads(run_paths(name).about.read_text(encoding="utf-8"))
    return about


def report(table: pd.DataFrame, figures: list[Path]) -> str:
    """The table, the figures, and a paragraph a recipe, as Markdown."""
    lines = [
        "# Recipes",
        "",
        "MNIST's test set, in nats an image; NLL by importance weighting; seconds of training on the machine that wrote this.",
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
        about = about_of(row["recipe"])
        lines += ["", f"## {row['recipe']}", "", f"{about['system']}: `{row['parameters']}`.", "", about["look"]]
        if about["faults"]:
            lines += ["", f"*In the source:* {about['faults']}"]
    return "\n".join(lines) + "\n"


def rounded(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def main() -> None:
    recipes = json.loads((RECIPES / "index.json").read_text(encoding="utf-8"))["recipes"]
    done = [name for name in recipes if run_paths(name).metrics.is_file()]
    if not done:
        raise UserError(f"{RECIPES / 'results'}: expected results of at least one recipe, got none; make recipes")
    for name in recipes:
        if name not in done:
            print(f"{name}: not run yet, left out; make recipe NAME={name}")
    table = pd.DataFrame([row_of(name) for name in done])
    with whole_file(TABLE) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    text = report(table, comparisons(set(done)))
    with whole_file(REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(table[["recipe", "epochs", *COLUMNS]].to_string(index=False, float_format="%.2f"))
    print(f"{REPORT}: written")


if __name__ == "__main__":
    run(main, __doc__)
