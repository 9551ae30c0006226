"""Recipes: parameter files that hold only their differences from params.yaml, and a description.

``python -m pipeline.config.recipes NAME`` resolves a recipe to a full set of parameters, which the stages read; without a name,
it lists the recipes for DVC (recipes/index.json).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from pipeline.config.keys import flatten
from pipeline.config.params import Params, Section
from pipeline.config.paths import DEFAULT, PARAMS, RECIPES, RunPaths, recipe_names
from pipeline.config.plain_yaml import read_yaml
from pipeline.config.stage import run_stage
from pipeline.config.validation import validated
from pipeline.runtime.errors import UserError, quoted
from pipeline.runtime.files import whole_file, write_json

INDEX = RECIPES / "index.json"


@dataclass(frozen=True, kw_only=True)
class Published(Section):
    """A published number to compare with."""

    metric: Literal["elbo", "nll"]
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class RecipeInfo(Section):
    """A recipe's description: its name in the table, and a paragraph for readers."""

    system: str  # the model, in one line
    look: str  # what to look at in its results, and why
    faults: str | None = None  # mistakes in the code that it is based on
    published: Published | None = None


def read_recipe(path: Path) -> tuple[RecipeInfo, dict[str, Any], Params]:
    """Returns a recipe's description, its changes, and the full set of parameters.

    Raises:
        UserError: one line per error, naming the recipe and the key.
    """
    changes = read_yaml(path)
    if not isinstance(changes, dict):
        raise UserError(f"{path}: expected keys and values, got {quoted(changes)}")
    if "data" in changes:
        raise UserError(f"{path}: data: recipes share the data of {PARAMS}, and its data.path; expected no such section")
    about = validated(RecipeInfo, changes.pop("about", None), f"{path}: about")
    return about, changes, validated(Params, merged(read_yaml(PARAMS), changes), f"{path} over {PARAMS}")


def merged(whole: Any, changes: Any) -> Any:
    """Merges ``changes`` into ``whole`` recursively, section by section."""
    if not (isinstance(whole, dict) and isinstance(changes, dict)):
        return changes
    return {**whole, **{key: merged(whole.get(key), value) for key, value in changes.items()}}


def main(paths: RunPaths) -> None:
    if paths is DEFAULT:
        write_json(INDEX, {"recipes": recipe_names()})
        print(f"{INDEX}: {len(recipe_names())} recipes")
        return
    path = RECIPES / f"{paths.results.name}.yaml"
    about, changes, params = read_recipe(path)
    write_json(paths.about, {**asdict(about), "changes": flatten(changes)})
    with whole_file(paths.params) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"# {PARAMS} with what {path} changes.\n")
        YAML(typ="safe", pure=True).dump(asdict(params), file)


if __name__ == "__main__":
    run_stage(main, __doc__)
