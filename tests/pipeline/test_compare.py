"""`vae compare`: the table says which run is better, and whether by more than another seed would make it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from pipeline.config.paths import DEFAULT, EXPECTED
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from pipeline.studies.compare import Comparison, compare
from pipeline.studies.runs import Run, find_runs
from tests.pipeline.conftest import ROOT

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
}
SPREAD = {"elbo": 0.2, "rate": 0.5, "distortion": 0.5, "nll": 0.2, "active_units": 0.7}


def run(
    name: str, nll: float = 96.0, *, params: dict[str, Any] | None = None, data: str | None = "abc", **others: float
) -> Run:
    values = {"elbo": -nll - 3.5, "rate": 21.5, "distortion": 78.0, "nll": nll, "active_units": 14} | others
    report = pd.DataFrame({"value": values, "standard_error": 0.25})
    return Run(name, PARAMS | (params or {}), report, 2.8, data, LocalFileSystem(), DEFAULT)


def compared(*runs: Run) -> Comparison:
    return Comparison(list(runs), SPREAD, 5)


def test_better_by_more_than_chance_is_told_from_what_another_seed_may_make() -> None:
    """Two seeds are 3.93 standard deviations apart at most, 95 times in 100: 0.79 nats here."""
    text = compared(run("main"), run("lower", 95.3, params={"beta": 0.5}), run("higher", 97.0, params={"beta": 2.0})).text()
    heading, main, lower, higher = (line.split() for line in text.splitlines()[:4])
    assert heading == ["run", "beta", "ELBO", "rate", "distortion", "NLL", "active", "min"]
    assert main == ["main", "1", "-99.50", "±0.25", "21.50", "78.00", "96.00", "±0.25", "14", "2.8"]
    assert "±0.25*" not in lower
    assert higher[3] == higher[7] == "±0.25*"
    assert "NLL: best is lower (beta 0.5), 95.30 nats per image" in text
    assert "  main (beta 1): 0.70 worse, no more than chance" in text
    assert "  higher (beta 2): 1.70 worse, more than chance" in text


def test_student_s_t_says_how_far_two_of_five_seeds_may_be_apart() -> None:
    """sqrt(2) s t, with the two-sided 95% quantile of Student's t of four degrees of freedom, 2.7764."""
    assert compared().chance("nll") == pytest.approx(2**0.5 * 2.7764 * 0.2, rel=1e-3)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (run("other", params={"binarize": True}), "binarize true"),
        (run("other", params={"model.likelihood": "gaussian"}), "model.likelihood gaussian"),
        (run("other", params={"data.path": "data/raw/mine"}, data=None), "other images"),
        (run("other", data="def"), "other images"),
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
    for key, value in (
        ("beta", "0.25"),
        ("hidden", "[512,256,128]"),
        ("optimizer", "rmsprop"),
        ("epochs", "1000"),
        ("seed", "7"),
    ):
        assert key in text
        assert value in text


def test_without_a_spread_nothing_is_called_chance(workspace: Path) -> None:
    found = Comparison.of([run("main"), run("other", 90.0)])
    assert "What chance does is not known: results/expected.json is missing" in found.text()
    assert "more than chance" not in found.text()
    write_json(EXPECTED, {"seeds": [1, 2, 3, 4, 5], "quantities": {"nll": {"standard_deviation": 0.2}}})
    assert "6.00 worse, more than chance" in Comparison.of([run("main"), run("other", 90.0)]).text()


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
        (["HEAD", "nosuch"], "nosuch: expected an experiment (dvc exp list), a commit, branch or tag, a recipe, or a folder"),
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
