"""Paths of each stage's outputs, relative to the root of the repository."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.errors import UserError, closest, quoted

PARAMS = Path("params.yaml")
SCHEMA = Path("params.schema.json")
PREPARED = Path("data/prepared")
CHECKPOINTS = Path("checkpoints")
RECIPES = Path("recipes")
CODE = RECIPES / "code.json"
RESULTS = Path("results")
EXPECTED = RESULTS / "expected.json"
WEIGHTS, CARD = "vae.safetensors", "MODEL_CARD.md"  # both in a model's folder


class RunPaths:
    """The parameters, weights and results of one run."""

    def __init__(self, params: Path, models: Path, results: Path, report: Path) -> None:
        self.params, self.models, self.results, self.report = params, models, results, report
        self.weights, self.card = models / WEIGHTS, models / CARD
        self.about = results / "recipe.json"
        self.time = results / "time.json"
        self.curves = results / "train"
        self.tables = results / "evaluate"
        self.metrics = self.tables / "metrics.json"
        self.figures = results / "plot"
        self.page = report / "index.html"


DEFAULT = RunPaths(PARAMS, Path("models/default"), RESULTS, RESULTS / "report")


def run_paths(recipe: str) -> RunPaths:
    """Returns the paths of a recipe's run; its params.yaml holds all resolved parameters."""
    results = RECIPES / "results" / recipe
    return RunPaths(results / "params.yaml", RECIPES / "models" / recipe, results, RECIPES / "reports" / recipe)


def recipe_names() -> list[str]:
    """Returns the names of all recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.name != "dvc.yaml")


def named_recipe(name: str) -> str:
    """Returns ``name`` if there is such a recipe.

    Raises:
        UserError: if there is none, with a suggestion.
    """
    names = recipe_names()
    if name in names:
        return name
    hint = f"did you mean {meant}?" if (meant := closest(name, names)) else f"expected one of {', '.join(names)}"
    raise UserError(f"{RECIPES}: no recipe {quoted(name)}; {hint}")
