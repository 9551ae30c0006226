"""Where each stage leaves what the next ones read, relative to the root of the repository."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.errors import UserError, quoted

PARAMS = Path("params.yaml")
SCHEMA = Path("params.schema.json")
PREPARED = Path("data/prepared")
CHECKPOINTS = Path("checkpoints")
RECIPES = Path("recipes")
CODE = RECIPES / "code.json"
RESULTS = Path("results")
EXPECTED = RESULTS / "expected.json"
WEIGHTS, CARD = "vae.safetensors", "MODEL_CARD.md"  # beside each other in a model's folder


@dataclass(frozen=True)
class RunPaths:
    """The parameters, weights and results of one run."""

    params: Path
    models: Path
    results: Path
    report: Path

    @property
    def about(self) -> Path:
        return self.results / "recipe.json"

    @property
    def weights(self) -> Path:
        return self.models / WEIGHTS

    @property
    def card(self) -> Path:
        return self.models / CARD

    @property
    def time(self) -> Path:
        return self.results / "time.json"

    @property
    def curves(self) -> Path:
        return self.results / "train"

    @property
    def metrics(self) -> Path:
        return self.results / "evaluate/metrics.json"

    @property
    def tables(self) -> Path:
        return self.results / "evaluate"

    @property
    def figures(self) -> Path:
        return self.results / "plot"

    @property
    def page(self) -> Path:
        return self.report / "index.html"


DEFAULT = RunPaths(PARAMS, Path("models/default"), RESULTS, RESULTS / "report")


def run_paths(recipe: str) -> RunPaths:
    """Of a recipe's run; its parameters are the whole set, as the recipe resolves to."""
    results = RECIPES / "results" / recipe
    return RunPaths(results / "params.yaml", RECIPES / "models" / recipe, results, RECIPES / "reports" / recipe)


def recipe_names() -> list[str]:
    """Of all recipes there are."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.name != "dvc.yaml")


def named_recipe(name: str) -> str:
    """The name, of a recipe that there is.

    Raises:
        UserError: if there is none.
    """
    names = recipe_names()
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
    raise UserError(f"{RECIPES}: no recipe {quoted(name)}; {hint}")
