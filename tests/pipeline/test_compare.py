"""`vae compare`: the table shows which run is better, and whether the difference exceeds that of other seeds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.api import DVCFileSystem  # type: ignore[import-untyped]
from dvc.scm import SCMError  # type: ignore[import-untyped]
from scipy.stats import studentized_range  # type: ignore[import-untyped]

from pipeline.config.paths import EXPECTED
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from pipeline.studies import experiments, runs
from pipeline.studies.compare import MIN_NAME, Comparison, compare, format_value, short_names, shortened
from pipeline.studies.experiments import TRIES, retry_while_experiments_run
from pipeline.studies.runs import Run, find_runs
from tests.pipeline.conftest import ROOT, set_params

PARAMS: dict[str, Any] = {
    "seed": 1,
    "beta": 1.0,
    "binarize": False,
    "data.path": "data/raw/mnist",
    "data.validation": None,
    "model.hidden": [500, 500],
    "model.likelihood": "bernoulli",
    "model.levels": 16,
    "model.posterior": "normal",
    "train.threads": None,
    "evaluate.importance_samples": 1000,
}
SPREAD = {"elbo": 0.2, "rate": 0.5, "distortion": 0.5, "nll": 0.2, "active_units": 0.7}


def run(
    name: str,
    nll: float = 96.0,
    *,
    params: dict[str, Any] | None = None,
    source: str | None = "abc",
    test_images: str | None = None,
    **others: float,
) -> Run:
    values = {"elbo": -nll - 3.5, "rate": 21.5, "distortion": 78.0, "nll": nll, "active_units": 14} | others
    report = pd.DataFrame({"value": values, "standard_error": 0.25})
    return Run(name, PARAMS | (params or {}), report, minutes=2.8, source=source, test_images=test_images)


def compared(*runs: Run) -> Comparison:
    return Comparison(list(runs), SPREAD, 5)


def test_differences_larger_than_chance_are_marked() -> None:
    """In 95% of cases three seeds lie within 5.04 standard deviations: here 1.01 nats."""
    text = compared(run("main"), run("lower", 95.3, params={"beta": 0.5}), run("higher", 97.2, params={"beta": 2.0})).text()
    heading, main, lower, higher = (line.split() for line in text.splitlines()[:4])
    assert heading == ["run", "beta", "ELBO", "rate", "distortion", "NLL", "active", "min"]
    assert main == ["main", "1", "-99.50", "±0.25", "21.50", "78.00", "96.00", "±0.25", "14", "2.8"]
    assert "±0.25*" not in lower
    assert higher[3] == higher[7] == "±0.25*"
    assert "NLL: best is lower (beta 0.5), 95.30 nats per image" in text
    assert "  main (beta 1): 0.70 worse, no more than chance" in text
    assert "  higher (beta 2): 1.90 worse, more than chance" in text


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_chance_is_tukeys_range_of_runs_with_other_seeds(count: int) -> None:
    """The 95% quantile of the studentised range with four degrees of freedom; for two runs, sqrt(2) times Student's t."""
    expected = studentized_range.ppf(0.95, count, 4)
    assert compared().chance("nll", count) / SPREAD["nll"] == pytest.approx(expected, abs=0.01)
    assert compared().chance("nll", 2) / SPREAD["nll"] == pytest.approx(2**0.5 * 2.7764, abs=0.01)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (run("other", 90.0, params={"binarize": True}), "binarize true"),
        (run("other", 90.0, params={"model.likelihood": "gaussian"}), "model.likelihood gaussian"),
        (run("other", 90.0, params={"data.path": "data/raw/mine"}, source=None), "other images"),
        (run("other", 90.0, source="def"), "other images"),
    ],
)
def test_runs_with_other_units_or_images_are_not_ranked_together(other: Run, reason: str) -> None:
    text = compared(run("main"), other).text()
    assert f"Not comparable with main: other ({reason})." in text
    assert "best" not in text
    assert "*" not in text.splitlines()[2]


def test_each_group_of_comparable_runs_is_ranked() -> None:
    binarized = [run(name, nll, params={"binarize": True, "seed": nll}) for name, nll in (("k1", 87.5), ("k5", 86.5))]
    text = compared(run("main"), *binarized).text()
    assert "NLL: best is k5 (seed 86.5), 86.50 nats per image" in text
    assert "k1 (seed 87.5): 1.00 worse, more than chance" in text


def test_checksums_of_the_test_set_identify_its_images() -> None:
    """After files moved, with more training images, and for a recipe, whose source files are unknown."""
    moved = run("moved", params={"data.path": "data/raw/mine"}, source="def", test_images="123")
    recipe, other = run("recipe", source=None), run("other", test_images="456")
    groups = compared(run("main", test_images="123"), moved, recipe, other).groups
    assert [[one.name for one in group] for group in groups] == [["main", "moved", "recipe"], ["other"]]


def test_runs_with_different_seeds_are_repeats_and_with_the_same_seed_are_not() -> None:
    runs = [run(f"seed {seed}", params={"seed": seed}) for seed in (1, 2, 3)]
    again, other = run("again", params={"seed": 1}), run("other", params={"seed": 4, "beta": 0.5})
    repeats = compared(runs[0], other, *runs[1:], again).repeats
    assert [[one.name for one in group] for group in repeats] == [["seed 1", "seed 2", "seed 3"], ["other"], ["again"]]


def test_equal_runs_are_reported_as_the_same() -> None:
    assert "  other (seed 2): the same\n" in compared(run("main"), run("other", params={"seed": 2})).text()


def test_nlls_with_different_numbers_of_samples_are_not_ranked_but_elbos_are() -> None:
    text = compared(run("main"), run("quick", 97.5, params={"evaluate.importance_samples": 10})).text()
    assert "NLL: best" not in text
    assert "ELBO: best is main (importance_samples 1000), -99.50 nats per image" in text
    assert re.search(r"^quick +-101.00 ±0.25\* +21.50 +78.00 +97.50 ±0.25 +14 ", text, re.MULTILINE)
    assert "NLLs by other numbers of evaluate.importance_samples are not compared" in text


def test_levels_affect_only_categorical_likelihoods_and_threads_no_comparison() -> None:
    found = compared(run("main"), run("other", params={"model.levels": 8, "train.threads": 1, "data.validation": 100}))
    assert len(found.groups) == 1
    assert found.keys == ["data.validation", "model.levels"]
    levels = [run(str(n), params={"model.likelihood": "categorical", "model.levels": n}) for n in (8, 16)]
    assert len(compared(*levels).groups) == 2


def test_an_autoencoder_has_no_elbo_and_is_not_ranked() -> None:
    nan = float("nan")
    text = compared(run("main"), run("ae", nan, params={"model.posterior": "deterministic"}, elbo=nan)).text()
    assert text.splitlines()[2].split() == ["ae", "deterministic", "-", "21.50", "78.00", "-", "14", "2.8"]
    assert "best" not in text
    assert "Not comparable with main: ae (model.posterior deterministic)." in text


LONG = "feature/a-branch-of-somebody-who-likes-words"
BIG: dict[str, Any] = {"elbo": -123456.78, "rate": 2345.67, "distortion": 121111.11, "nll": 123000.12}


@pytest.mark.parametrize(
    "others",
    [
        [run(LONG, params={"beta": 0.25, "model.hidden": [512] * 9, "train.optimizer": "rmsprop", "seed": 7})],
        [run(f"{LONG}-{i}", params={"beta": i, "model.latent_dim": 2 * i, "train.epochs": 1000}) for i in range(12)],
        [run(f"{i} {LONG}", params={"beta": i}, **BIG) for i in range(2)],
        [run(LONG, float("nan"), params={"model.posterior": "deterministic"}, elbo=float("nan"), rate=float("nan"))],
        [run("none", params={"model.likelihood": None}), run("infinite", float("inf"), params={"seed": 9})],
    ],
    ids=["parameters", "twelve runs", "large numbers", "an autoencoder", "no number"],
)
def test_table_fits_80_columns_with_distinct_names_and_every_parameter_is_listed(
    monkeypatch: pytest.MonkeyPatch, others: list[Run]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = compared(run("main"), *others)
    lines = found.text().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("main ")
    assert len({shortened(one.name, MIN_NAME + 4) for one in found.runs}) == len(found.runs)
    assert short_names(["beta", "model.hidden", "model.top.hidden"]) == ["beta", "hidden", "top.hidden"]
    listed = re.sub(r"\s", "", found.text())
    for one in others:
        for key in found.keys:
            if one.params.get(key) != PARAMS.get(key):
                assert re.sub(r"\s", "", format_value(one.params[key])) in listed


def test_without_measured_deviations_no_difference_is_attributed_to_chance(workspace: Path) -> None:
    found = Comparison.of([run("main"), run("other", 90.0)])
    assert "What chance does is not known: results/expected.json is missing" in found.text()
    assert "more than chance" not in found.text()
    band = {"seeds": [1, 2, 3, 4, 5], "quantities": {"nll": {"standard_deviation": 0.2}}}
    write_json(EXPECTED, {**band, "params": {"data.path": "data/raw/mnist"}})
    assert "6.00 worse, more than chance" in Comparison.of([run("main"), run("other", 90.0)]).text()
    # Other data may have another deviation.
    write_json(EXPECTED, {**band, "params": {"data.path": "data/raw/other"}})
    mine = {"data.path": "data/raw/mine"}
    text = Comparison.of([run("main", params=mine), run("other", 90.0, params=mine)]).text()
    assert "6.00 worse, " not in text
    assert "What chance does is not known: results/expected.json is of runs on data/raw/other;" in " ".join(text.split())


def test_a_damaged_expected_file_is_one_error_line(workspace: Path) -> None:
    EXPECTED.parent.mkdir(exist_ok=True)
    EXPECTED.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"^results/expected.json: expected JSON, as make seeds writes it"):
        Comparison.of([run("main"), run("other")])


def test_recipes_are_compared_by_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed ones: the importance-weighted bound with five samples has the better NLL, the ELBO the better ELBO."""
    monkeypatch.chdir(ROOT)
    text = Comparison.of(find_runs(["vae_k5", "iwae_k5"])).text()
    assert text.splitlines()[1].split()[:2] == ["vae_k5", "elbo"]
    assert "NLL: best is iwae_k5 (bound iwae" in text
    assert "ELBO: best is vae_k5 (bound elbo" in text
    metrics = json.loads(Path("recipes/results/iwae_k5/evaluate/metrics.json").read_text(encoding="utf-8"))
    assert f"{metrics['nll']:.2f}" in text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["HEAD", "nosuch"], "'nosuch': expected an experiment (dvc exp list), a commit, branch or tag, a recipe, or a folder"),
        (["HEAD", "HEAD^{tree}"], "'HEAD^{tree}': expected an experiment"),
        (["HEAD", ""], "'': expected an experiment"),
        (["HEAD", "vae_k1", "HEAD"], "HEAD: expected each run once"),
        (["HEAD"], "expected two runs or more, got HEAD; dvc exp run makes some"),
    ],
)
def test_unknown_names_and_a_single_run_are_one_error_line(
    names: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        compare(names, None)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_recipe_takes_precedence_over_a_branch_of_the_same_name_with_a_note(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("same", "same-2", "same/below"):
        subprocess.run(["git", "branch", name], check=name != "same/below", capture_output=True)
    subprocess.run(["git", "update-ref", "refs/exps/ab/cdef/same", "HEAD"], check=True)
    monkeypatch.setattr(runs, "recipe_names", lambda: ["same"])
    monkeypatch.setattr(runs, "recipe_run", run)
    assert find_runs(["same"])[0].name == "same"
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert capsys.readouterr().err.splitlines() == [
        f"note: same: compared the recipe, not the branch of the same name ({head})",
        f"note: same: compared the recipe, not the experiment of the same name ({head})",
    ]


@pytest.mark.parametrize("failures", [2, TRIES])
def test_reading_a_commit_is_retried_while_an_experiment_ends(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [SCMError("unknown Git revision 'refs/exps/exec/EXEC_BASELINE'") for _ in range(failures)]

    class FailingFileSystem(DVCFileSystem):  # type: ignore[misc]
        @property
        def repo(self) -> Any:  # DVC looks for the revision here
            if errors:
                raise errors.pop()
            return super().repo

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(experiments, "PAUSE", 0)
    monkeypatch.setattr(runs, "DVCFileSystem", FailingFileSystem)
    if failures < TRIES:
        assert find_runs(["HEAD"])[0].name == "HEAD"
    else:
        with pytest.raises(UserError, match=r"^DVC can't tell what HEAD is while experiments start and end in this folder"):
            find_runs(["HEAD"])
    assert errors == []


def test_other_dvc_errors_are_not_retried() -> None:
    asked = []

    def ask() -> None:
        asked.append(True)
        raise SCMError("unknown Git revision 'nosuch'")

    with pytest.raises(SCMError):
        retry_while_experiments_run(ask)
    assert len(asked) == 1


def test_outside_a_repository_the_error_says_that_commits_need_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"in the root of the repository$"):
        find_runs(["HEAD"])


def test_a_run_has_the_parameters_it_was_trained_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not the current params.yaml."""
    for name in ("params.yaml", "dvc.lock", "results/evaluate/report.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    set_params(tmp_path / "params.yaml", {"beta": 7.0, "plot.samples": 3})
    (found,) = find_runs(["workspace"])
    assert (found.params["beta"], found.params["plot.samples"]) == (1.0, 3)
