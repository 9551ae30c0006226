"""How a stage finds its run: the default's, or that of the recipe that its command line names."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pipeline.config.paths import DEFAULT, RunPaths, named_recipe, run_paths
from pipeline.runtime.main import run


def run_stage(stage: Callable[[RunPaths], None], about: str | None) -> None:
    """Runs a stage of the default's pipeline or, where the command line names one, of a recipe's."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipe", nargs="?", help="name of a recipe, a file of recipes/ without .yaml; none: params.yaml as it is"
    )

    def here() -> None:
        recipe: str | None = parser.parse_args().recipe
        stage(DEFAULT if recipe is None else run_paths(named_recipe(recipe)))

    run(here)
