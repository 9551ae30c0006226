"""Finds runs by name (experiments, commits, recipes, model folders) and reads their parameters and results."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import DVCFileSystem  # type: ignore[import-untyped]
from dvc.exceptions import NotDvcRepoError  # type: ignore[import-untyped]
from dvc.scm import SCMError  # type: ignore[import-untyped]

from pipeline.config.keys import diff_keys, flatten
from pipeline.config.paths import CARD, DEFAULT, PARAMS, RunPaths, recipe_names, run_paths
from pipeline.config.plain_yaml import read_yaml, read_yaml_text
from pipeline.config.validation import with_current_names
from pipeline.evaluation.model_card import read_metrics
from pipeline.models.metadata import read_header, weights_of
from pipeline.runtime.errors import UserError, quoted
from pipeline.studies.experiments import finished_experiments, retry_while_experiments_run

WORKSPACE = "workspace"
LOCK = Path("dvc.lock")
TEST_IMAGES = "test_images.npy"
REFS = {"branch": "refs/heads/{}", "tag": "refs/tags/{}", "experiment": "refs/exps/*/*/{}"}  # also matched


@dataclass(frozen=True, eq=False)
class Run:
    """A run's parameters and results."""

    name: str
    params: dict[str, Any]  # by dotted name
    report: pd.DataFrame  # index: quantity; columns: value, standard_error
    minutes: float | None = None  # of training
    source: str | None = None  # checksum of the source images, if known
    test_images: str | None = None  # checksum of the test images, if the weights are available here
    weights: Path | None = None  # None if not available here
    curves: dict[str, pd.DataFrame] | None = None  # of validation, by quantity; columns: step, value

    @property
    def changes(self) -> dict[str, Any]:
        """Its parameters that differ from the current params.yaml."""
        return {key: self.params.get(key) for key in diff_keys(self.params, flatten(read_yaml(PARAMS)))}

    def value(self, quantity: str) -> float:
        """Returns a quantity; NaN if it was not measured, as for the ELBO of an autoencoder."""
        return float(self.report["value"].get(quantity, float("nan")))

    def standard_error(self, quantity: str) -> float:
        """Returns a quantity's standard error over the test images; NaN if unknown."""
        return float(self.report["standard_error"].get(quantity, float("nan")))


def experiments() -> list[Run]:
    """Returns the last commit's run and its successful experiments; of runs with equal parameters, only the last.

    Raises:
        UserError: if DVC fails.
    """
    found = []
    for name, rev in finished_experiments().items():
        try:
            found.append(_commit_run(name, rev))
        except UserError as error:
            print(f"note: left out: {error}", file=sys.stderr)
    return found


def find_runs(names: list[str]) -> list[Run]:
    """Returns the runs with these names; without names, the last commit's run and its experiments.

    Args:
        names: each ``workspace``, a model folder, a recipe, or an experiment, commit, branch or tag. The first match in this
            order is taken, with a note if there are others.

    Raises:
        UserError: if there is no such run, or it has no results.
    """
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{min(twice)}: expected each run once")
    return [_find_run(name) for name in names] if names else experiments()


def _find_run(name: str) -> Run:
    if name == WORKSPACE:
        taken, found = "workspace", workspace_run()
    elif name and weights_of(Path(name)).is_file():
        taken, found = "folder of a model", _model_run(Path(name))
    elif name in recipe_names():
        taken, found = "recipe", recipe_run(name)
    else:
        return _commit_run(name, name)
    for kind, commit in _commits_of(name):
        print(f"note: {name}: compared the {taken}, not the {kind} of the same name ({commit})", file=sys.stderr)
    return found


def _commits_of(name: str) -> list[tuple[str, str]]:
    """Returns kind and commit of the branches, tags and experiments of this name."""
    found = []
    for kind, pattern in REFS.items():
        command = ["git", "for-each-ref", "--format=%(objectname:short) %(refname)", pattern.format(name)]
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        # A pattern also matches the references below it.
        found += [(kind, line.split()[0]) for line in listed.stdout.splitlines() if line.endswith(f"/{name}")]
    return found


def workspace_run() -> Run:
    """Reads the run in the workspace, as the default's stages wrote it.

    Raises:
        UserError: if they have not run.
    """
    return _read_run(WORKSPACE, DEFAULT, _read_text, lambda path, _: path)


def recipe_run(name: str) -> Run:
    """Reads the run of a recipe, as its stages wrote it.

    Raises:
        UserError: if they have not run.
    """
    return _read_run(name, run_paths(name), _read_text, lambda path, _: path)


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _files_and_cache(rev: str) -> tuple[Any, Any]:
    files = DVCFileSystem(rev=rev)
    return files, files.repo.cache.local  # .repo opens the revision, or raises


def _commit_run(name: str, rev: str) -> Run:
    try:
        if not rev:  # DVC would take an empty name for the workspace
            raise SCMError("no name")
        files, cache = retry_while_experiments_run(lambda: _files_and_cache(rev))
    except (SCMError, NotDvcRepoError, AttributeError):  # AttributeError: for a revision that is not a commit
        expected = "an experiment (dvc exp list), a commit, branch or tag, a recipe, or a folder of a model"
        raise UserError(f"{quoted(name)}: expected {expected}, in the root of the repository") from None
    # For files tracked by DVC, only the local cache is searched, without network access.
    return _read_run(
        name,
        DEFAULT,
        lambda path: str(files.read_text(path.as_posix(), encoding="utf-8")),
        lambda _, md5: Path(cache.oid_to_path(md5)) if md5 else None,
    )


def _read_run(
    name: str, paths: RunPaths, read: Callable[[Path], str], tracked: Callable[[Path, str | None], Path | None]
) -> Run:
    """Reads a run from the outputs of its stages.

    Args:
        read: returns the text of a file tracked by git.
        tracked: returns the path of a file tracked by DVC, from its path and its checksum in the lock.
    """

    def required(path: Path) -> str:
        try:
            return read(path)
        except FileNotFoundError:
            how = f"make recipe NAME={name}" if paths is not DEFAULT else "dvc repro"
            raise UserError(f"{name}: {path}: missing; {how} writes it") from None

    def optional(path: Path) -> str:
        try:
            return read(path)
        except FileNotFoundError:
            return ""

    stages = (read_yaml_text(optional(LOCK), LOCK) or {}).get("stages", {})
    raw = read_yaml_text(required(paths.params), paths.params)
    if paths is DEFAULT:  # params.yaml may have changed since: take the values that each stage ran with
        for stage in ("prepare", "train", "evaluate"):
            raw |= stages.get(stage, {}).get("params", {}).get(str(PARAMS), {})
    params = flatten(with_current_names(raw))
    table = paths.tables / "report.csv"
    try:
        report = pd.read_csv(io.StringIO(required(table)), index_col="quantity")[["value", "standard_error"]].astype(float)
    except (ValueError, KeyError):
        raise UserError(f"{name}: {table}: expected the table that the stage evaluate writes") from None
    checksums = {
        one["path"]: one.get("md5")
        for stage in ("prepare", "train")
        for one in [*stages.get(stage, {}).get("deps", []), *stages.get(stage, {}).get("outs", [])]
    }

    def available(path: Path) -> Path | None:
        found = tracked(path, checksums.get(path.as_posix()))
        return found if found is not None and found.is_file() else None

    time, weights, test_images = available(paths.time), available(paths.weights), None
    with contextlib.suppress(UserError):  # unreadable weights draw no pictures, but the run has results
        test_images = None if weights is None else read_header(weights).metadata.data.sha256.get(TEST_IMAGES)
    curves = {}
    for quantity in ("elbo", "distortion", "rate"):
        if text := optional(paths.curves / f"plots/metrics/validation/{quantity}.tsv"):
            curves[quantity] = pd.read_csv(io.StringIO(text), sep="\t")
    return Run(
        name,
        params,
        report,
        minutes=None if time is None else json.loads(time.read_text(encoding="utf-8"))["seconds"] / 60,
        # dvc.lock is the default's: it does not record a recipe's data.
        source=checksums.get(str(params.get("data.path"))) if paths is DEFAULT else None,
        test_images=test_images,
        weights=weights,
        curves=curves,
    )


def _model_run(model: Path) -> Run:
    """Reads a run from its model alone: the header of the weights, and the model card beside them."""
    weights = weights_of(model)
    header = read_header(weights)
    metrics = read_metrics(weights.parent / CARD, weights)
    report = pd.DataFrame.from_dict(metrics, orient="index", columns=["value", "standard_error"])
    params, test_images = flatten(asdict(header.metadata.params)), header.metadata.data.sha256.get(TEST_IMAGES)
    return Run(str(model), params, report, test_images=test_images, weights=weights)
