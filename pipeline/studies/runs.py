"""Runs to compare, by name: experiments, commits, recipes, folders of models; and what each found."""

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
from pipeline.studies.experiments import beside_experiments, finished_experiments

WORKSPACE = "workspace"
LOCK = Path("dvc.lock")
TEST_IMAGES = "test_images.npy"
REFS = {"branch": "refs/heads/{}", "tag": "refs/tags/{}", "experiment": "refs/exps/*/*/{}"}  # what else a name may be of


@dataclass(frozen=True, eq=False)
class Run:
    """What a run was made with, and what it found."""

    name: str
    params: dict[str, Any]  # by dotted names
    report: pd.DataFrame  # a row for each quantity: value, standard_error
    minutes: float | None = None  # of training
    source: str | None = None  # checksum of the files that its images come from, where it is known
    test_images: str | None = None  # checksum of those that it was evaluated on, where its weights are here
    weights: Path | None = None  # where they are here, if they are
    curves: dict[str, pd.DataFrame] | None = None  # the validation's, by quantity: step, and its value

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
    found = []
    for name, rev in finished_experiments().items():
        try:
            found.append(_of_commit(name, rev))
        except UserError as error:
            print(f"note: left out: {error}", file=sys.stderr)
    return found


def find_runs(names: list[str]) -> list[Run]:
    """The runs of these names; without any, the last commit's and those of its experiments.

    Args:
        names: each ``workspace``, a folder of a model, a recipe, or an experiment, commit, branch or tag; what comes first in
            this order has the name, and a note says so.

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
        taken, found = "folder of a model", _of_model(Path(name))
    elif name in recipe_names():
        taken, found = "recipe", recipe_run(name)
    else:
        return _of_commit(name, name)
    for kind, commit in _commits_of(name):
        print(f"note: {name}: compared the {taken}, not the {kind} of the same name ({commit})", file=sys.stderr)
    return found


def _commits_of(name: str) -> list[tuple[str, str]]:
    """The branch, the tag and the experiments of this name: what each is, and its commit."""
    found = []
    for kind, pattern in REFS.items():
        command = ["git", "for-each-ref", "--format=%(objectname:short) %(refname)", pattern.format(name)]
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        # A pattern stands for the references below it as well.
        found += [(kind, line.split()[0]) for line in listed.stdout.splitlines() if line.endswith(f"/{name}")]
    return found


def workspace_run() -> Run:
    """What the default's stages wrote, as it is now.

    Raises:
        UserError: if they have not run.
    """
    return _of_files(WORKSPACE, DEFAULT, _here, lambda path, _: path)


def recipe_run(name: str) -> Run:
    """What a recipe's stages wrote.

    Raises:
        UserError: if they have not run.
    """
    return _of_files(name, run_paths(name), _here, lambda path, _: path)


def _here(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _files_and_cache(rev: str) -> tuple[Any, Any]:
    files = DVCFileSystem(rev=rev)
    return files, files.repo.cache.local  # which is where DVC looks for the revision


def _of_commit(name: str, rev: str) -> Run:
    try:
        if not rev:  # which DVC takes for the workspace
            raise SCMError("no name")
        files, cache = beside_experiments(lambda: _files_and_cache(rev))
    except (SCMError, NotDvcRepoError, AttributeError):  # the last of a revision that is no commit
        expected = "an experiment (dvc exp list), a commit, branch or tag, a recipe, or a folder of a model"
        raise UserError(f"{quoted(name)}: expected {expected}, in the root of the repository") from None
    # Of what DVC tracks, the local cache alone is asked: nothing here waits for a network.
    return _of_files(
        name,
        DEFAULT,
        lambda path: str(files.read_text(path.as_posix(), encoding="utf-8")),
        lambda _, md5: Path(cache.oid_to_path(md5)) if md5 else None,
    )


def _of_files(
    name: str, paths: RunPaths, read: Callable[[Path], str], tracked: Callable[[Path, str | None], Path | None]
) -> Run:
    """A run by what its stages wrote.

    Args:
        read: gives the text of a file that git has.
        tracked: gives the place of one that DVC has, by its path and its checksum in the lock.
    """

    def must(path: Path) -> str:
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
    raw = read_yaml_text(must(paths.params), paths.params)
    if paths is DEFAULT:  # with what each stage ran with, which params.yaml may be ahead of
        for stage in ("prepare", "train", "evaluate"):
            raw |= stages.get(stage, {}).get("params", {}).get(str(PARAMS), {})
    params = flatten(with_current_names(raw))
    table = paths.tables / "report.csv"
    try:
        report = pd.read_csv(io.StringIO(must(table)), index_col="quantity")[["value", "standard_error"]].astype(float)
    except (ValueError, KeyError):
        raise UserError(f"{name}: {table}: expected the table that the stage evaluate writes") from None
    checksums = {
        one["path"]: one.get("md5")
        for stage in ("prepare", "train")
        for one in [*stages.get(stage, {}).get("deps", []), *stages.get(stage, {}).get("outs", [])]
    }

    def here(path: Path) -> Path | None:
        found = tracked(path, checksums.get(path.as_posix()))
        return found if found is not None and found.is_file() else None

    time, weights, test_images = here(paths.time), here(paths.weights), None
    with contextlib.suppress(UserError):  # weights that can't be read draw no pictures, but were evaluated
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
        # The lock is the default's: which data a recipe was trained on, it does not say.
        source=checksums.get(str(params.get("data.path"))) if paths is DEFAULT else None,
        test_images=test_images,
        weights=weights,
        curves=curves,
    )


def _of_model(model: Path) -> Run:
    """A run by its model alone: the weights' header, and the card beside them."""
    weights = weights_of(model)
    header = read_header(weights)
    metrics = read_metrics(weights.parent / CARD, weights)
    report = pd.DataFrame.from_dict(metrics, orient="index", columns=["value", "standard_error"])
    params, test_images = flatten(asdict(header.metadata.params)), header.metadata.data.sha256.get(TEST_IMAGES)
    return Run(str(model), params, report, test_images=test_images, weights=weights)
