"""Selects a stage's run from its command line: the default, or a recipe by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pipeline.config.paths import DEFAULT, RunPaths, named_recipe, run_paths
from pipeline.runtime.main import run
from pipeline.runtime.memory import keep_freed_memory


def run_stage(stage: Callable[[RunPaths], None], about: str | None) -> None:
    """Runs a stage for the default pipeline or, if the command line names one, for a recipe."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipe", nargs="?", help="name of a recipe, a file of recipes/ without .yaml; none: params.yaml as it is"
    )

    def parse_and_run() -> None:
        recipe: str | None = parser.parse_args().recipe
        keep_freed_memory()
        stage(DEFAULT if recipe is None else run_paths(named_recipe(recipe)))

    run(parse_and_run)
