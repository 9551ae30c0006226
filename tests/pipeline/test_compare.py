"""`vae compare`: the table says which run is better, and whether by more than another seed would make it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import studentized_range  # type: ignore[import-untyped]

from pipeline.config.paths import EXPECTED
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from pipeline.studies.compare import Comparison, compare
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
    name: str, nll: float = 96.0, *, params: dict[str, Any] | None = None, data: str | None = "abc", **others: float
) -> Run:
    values = {"elbo": -nll - 3.5, "rate": 21.5, "distortion": 78.0, "nll": nll, "active_units": 14} | others
    report = pd.DataFrame({"value": values, "standard_error": 0.25})
    return Run(name, PARAMS | (params or {}), report, minutes=2.8, data=data)


def compared(*runs: Run) -> Comparison:
    return Comparison(list(runs), SPREAD, 5)


def test_better_by_more_than_chance_is_told_from_what_other_seeds_may_make() -> None:
    """Three seeds lie within 5.04 standard deviations, 95 times in 100: 1.01 nats here."""
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
def test_chance_is_how_far_apart_runs_of_other_seeds_lie_by_tukey(count: int) -> None:
    """The studentised range's 95% quantile, with the four degrees of freedom of five seeds; of two, sqrt(2) Student's t."""
    expected = studentized_range.ppf(0.95, count, 4)
    assert compared().chance("nll", count) / SPREAD["nll"] == pytest.approx(expected, abs=0.01)
    assert compared().chance("nll", 2) / SPREAD["nll"] == pytest.approx(2**0.5 * 2.7764, abs=0.01)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (run("other", 90.0, params={"binarize": True}), "binarize true"),
        (run("other", 90.0, params={"model.likelihood": "gaussian"}), "model.likelihood gaussian"),
        (run("other", 90.0, params={"data.path": "data/raw/mine"}, data=None), "other images"),
        (run("other", 90.0, data="def"), "other images"),
    ],
)
def test_runs_in_other_units_or_of_other_images_are_not_ranked_together(other: Run, reason: str) -> None:
    text = compared(run("main"), other).text()
    assert f"Not comparable with main: other ({reason})." in text
    assert "best" not in text
    assert "*" not in text.splitlines()[2]


def test_what_compares_among_itself_is_ranked_beside_what_does_not() -> None:
    binarized = [run(name, nll, params={"binarize": True, "seed": nll}) for name, nll in (("k1", 87.5), ("k5", 86.5))]
    text = compared(run("main"), *binarized).text()
    assert "NLL: best is k5 (seed 86.5), 86.50 nats per image" in text
    assert "k1 (seed 87.5): 1.00 worse, more than chance" in text


def test_equal_runs_are_called_the_same() -> None:
    assert "  other (seed 2): the same\n" in compared(run("main"), run("other", params={"seed": 2})).text()


def test_nll_by_other_numbers_of_samples_is_not_ranked_together_and_the_elbo_is() -> None:
    text = compared(run("main"), run("quick", 97.5, params={"evaluate.importance_samples": 10})).text()
    assert "NLL: best" not in text
    assert "ELBO: best is main (importance_samples 1000), -99.50 nats per image" in text
    assert re.search(r"^quick +-101.00 ±0.25\* +21.50 +78.00 +97.50 ±0.25 +14 ", text, re.MULTILINE)
    assert "NLLs by other numbers of evaluate.importance_samples are not compared" in text


def test_levels_matter_to_the_categorical_alone_and_threads_to_nobody() -> None:
    found = compared(run("main"), run("other", params={"model.levels": 8, "train.threads": 1, "data.validation": 100}))
    assert len(found.groups) == 1
    assert found.keys == ["data.validation", "model.levels"]
    levels = [run(str(n), params={"model.likelihood": "categorical", "model.levels": n}) for n in (8, 16)]
    assert len(compared(*levels).groups) == 2


def test_an_autoencoder_has_no_elbo_and_is_ranked_with_nobody() -> None:
    nan = float("nan")
    text = compared(run("main"), run("ae", nan, params={"model.posterior": "deterministic"}, elbo=nan)).text()
    assert text.splitlines()[2].split() == ["ae", "deterministic", "-", "21.50", "78.00", "-", "14", "2.8"]
    assert "best" not in text
    assert "Not comparable with main: ae (model.posterior deterministic)." in text


def test_the_table_fits_80_columns_and_leaves_out_no_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    many = {"beta": 0.25, "model.hidden": [512, 256, 128], "train.optimizer": "rmsprop", "train.epochs": 1000, "seed": 7}
    text = compared(run("main"), run("a-rather-long-name-of-a-branch", 101.5, params=many)).text()
    assert max(map(len, text.splitlines())) <= 80
    listed = " ".join(text.split())
    for said in ("beta 0.25", "hidden [512,256,128]", "optimizer rmsprop", "epochs 1000", "seed 7"):
        assert said in listed


def test_without_a_spread_nothing_is_called_chance(workspace: Path) -> None:
    found = Comparison.of([run("main"), run("other", 90.0)])
    assert "What chance does is not known: results/expected.json is missing" in found.text()
    assert "more than chance" not in found.text()
    write_json(EXPECTED, {"seeds": [1, 2, 3, 4, 5], "quantities": {"nll": {"standard_deviation": 0.2}}})
    assert "6.00 worse, more than chance" in Comparison.of([run("main"), run("other", 90.0)]).text()


def test_a_damaged_spread_is_one_line(workspace: Path) -> None:
    EXPECTED.parent.mkdir(exist_ok=True)
    EXPECTED.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"^results/expected.json: expected JSON, as make seeds writes it"):
        Comparison.of([run("main"), run("other")])


def test_recipes_compare_by_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in git: Burda et al.'s bound with five samples is better by NLL, and the ELBO's by ELBO."""
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
def test_a_name_of_nothing_and_one_run_alone_are_a_line(
    names: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        compare(names, None)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_outside_of_a_repository_commits_are_said_to_need_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"in the root of the repository$"):
        find_runs(["HEAD"])


def test_a_run_has_the_parameters_that_it_was_made_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not those that params.yaml has got since."""
    for name in ("params.yaml", "dvc.lock", "results/evaluate/report.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    set_params(tmp_path / "params.yaml", {"beta": 7.0, "plot.samples": 3})
    (found,) = find_runs(["workspace"])
    assert (found.params["beta"], found.params["plot.samples"]) == (1.0, 3)
