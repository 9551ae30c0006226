"""Recipes: parameter files that hold only what differs from params.yaml, and say what they are.

``python -m pipeline.config.recipes NAME`` writes the whole set of parameters that a recipe comes to, which the stages read;
without a name, it lists the recipes for DVC (recipes/index.json).
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
    """A number to stand beside."""

    metric: Literal["elbo", "nll"]
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class RecipeInfo(Section):
    """What a recipe says of itself; its name in the table, and its paragraph for whoever learns from it."""

    system: str  # what it is, in a line
    look: str  # what to look at in its results, and why
    faults: str | None = None  # what was wrong in the code that it comes from
    published: Published | None = None


def read_recipe(path: Path) -> tuple[RecipeInfo, dict[str, Any], Params]:
    """What a recipe says of itself, what it changes, and the whole set of parameters that it comes to.

    Raises:
        UserError: a line for each fault, naming the recipe and the key.
    """
    changes = read_yaml(path)
    if not isinstance(changes, dict):
        raise UserError(f"{path}: expected keys and values, got {quoted(changes)}")
    if "data" in changes:
        raise UserError(f"{path}: data: recipes share the data of {PARAMS}, and its data.path; expected no such section")
    about = validated(RecipeInfo, changes.pop("about", None), f"{path}: about")
    return about, changes, validated(Params, merged(read_yaml(PARAMS), changes), f"{path} over {PARAMS}")


def merged(whole: Any, changes: Any) -> Any:
    """The first with the second's values where it has any, section by section."""
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
