"""Runs to compare, by name: experiments, commits, recipes, folders of models; and what each found."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import DVCFileSystem  # type: ignore[import-untyped]
from dvc.scm import RevError  # type: ignore[import-untyped]
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from pipeline.config.keys import diff_keys, flatten
from pipeline.config.paths import CARD, DEFAULT, PARAMS, RunPaths, recipe_names, run_paths
from pipeline.config.plain_yaml import read_yaml, read_yaml_text
from pipeline.config.validation import with_current_names
from pipeline.evaluation.model_card import read_metrics
from pipeline.models.metadata import read_header, weights_of
from pipeline.runtime.errors import UserError
from pipeline.studies.experiments import finished_experiments

WORKSPACE = "workspace"
LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Run:
    """What a run was made with, and what it found."""

    name: str
    params: dict[str, Any]  # by dotted names
    report: pd.DataFrame  # a row for each quantity: value, standard_error
    minutes: float | None  # of training
    data: str | None  # checksum of the files that the images come from, where it is known
    files: AbstractFileSystem  # where all that it wrote is
    paths: RunPaths

    @property
    def changes(self) -> dict[str, Any]:
        """Its parameters that are not as in params.yaml now."""
        return {key: self.params.get(key) for key in diff_keys(self.params, flatten(read_yaml(PARAMS)))}

    def value(self, quantity: str) -> float:
        """NaN where it was not measured, as the ELBO of an autoencoder."""
        return float(self.report["value"].get(quantity, float("nan")))

    def standard_error(self, quantity: str) -> float:
        """Over the test images; NaN where it is not known."""
        return float(self.report["standard_error"].get(quantity, float("nan")))


def experiments() -> list[Run]:
    """The last commit's run, and those of its experiments that ended well; of runs with the same parameters, the last.

    Raises:
        UserError: if DVC can't tell.
    """
    return [_of_commit(name, rev) for name, rev in finished_experiments().items()]


def find_runs(names: list[str]) -> list[Run]:
    """The runs of these names; without any, the last commit's and those of its experiments.

    Args:
        names: each an experiment, a commit, branch or tag, a recipe, a folder of a model, or ``workspace``.

    Raises:
        UserError: if there is no such run, or it has no results.
    """
    if not names:
        return experiments()
    return [_find_run(name) for name in names]


def _find_run(name: str) -> Run:
    if name == WORKSPACE:
        return workspace_run()
    if weights_of(Path(name)).is_file():
        return _of_model(Path(name))
    if name in recipe_names():
        return recipe_run(name)
    return _of_commit(name, name)


def _of_commit(name: str, rev: str) -> Run:
    try:
        return _of_files(name, DVCFileSystem(rev=rev), DEFAULT)
    except RevError:
        raise UserError(
            f"{name}: expected an experiment (dvc exp list), a commit, branch or tag, a recipe, or a folder of a model"
        ) from None


def recipe_run(name: str) -> Run:
    """What a recipe's stages wrote.

    Raises:
        UserError: if they have not run.
    """
    return _of_files(name, LocalFileSystem(), run_paths(name))


def workspace_run() -> Run:
    """What the default's stages wrote, as it is now.

    Raises:
        UserError: if they have not run.
    """
    return _of_files(WORKSPACE, LocalFileSystem(), DEFAULT)


def _of_files(name: str, files: AbstractFileSystem, paths: RunPaths) -> Run:
    def read(path: Path) -> str:
        try:
            return str(files.read_text(path.as_posix(), encoding="utf-8"))
        except FileNotFoundError:
            how = f"make recipe NAME={name}" if paths is not DEFAULT else "dvc repro"
            raise UserError(f"{name}: {path}: missing; {how} writes it") from None

    table = paths.tables / "report.csv"
    params = with_current_names(read_yaml_text(read(paths.params), paths.params))
    try:
        report = pd.read_csv(io.StringIO(read(table)), index_col="quantity")[["value", "standard_error"]].astype(float)
    except (ValueError, KeyError):
        raise UserError(f"{name}: {table}: expected the table that the stage evaluate writes") from None
    data = None
    if files.exists(LOCK.as_posix()):
        depends = read_yaml_text(read(LOCK), LOCK)["stages"].get("prepare", {}).get("deps", [])
        data = next((one["md5"] for one in depends if one["path"] == params["data"]["path"]), None)
    minutes = None
    with suppress(FileNotFoundError):  # DVC's cache alone has it of an experiment: it differs each time that one is trained
        minutes = json.loads(files.read_text(paths.time.as_posix(), encoding="utf-8"))["seconds"] / 60
    return Run(name, flatten(params), report, minutes, data, files, paths)


def _of_model(model: Path) -> Run:
    """A run by its model alone: the weights' header, and the card beside them."""
    weights = weights_of(model)
    header = read_header(weights)
    report = pd.DataFrame({"value": read_metrics(weights.parent / CARD, weights)})
    report["standard_error"] = float("nan")
    paths = RunPaths(DEFAULT.params, weights.parent, weights.parent, weights.parent)
    return Run(str(model), flatten(asdict(header.metadata.params)), report, None, None, LocalFileSystem(), paths)
