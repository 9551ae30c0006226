"""The band of several seeds, and the verdict on runs inside and outside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config.keys import flatten
from pipeline.config.paths import DEFAULT, EXPECTED, PARAMS
from pipeline.config.plain_yaml import read_yaml
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_csv
from pipeline.studies import seeds, verify
from pipeline.studies.experiments import finished
from pipeline.studies.runs import Run
from tests.pipeline.conftest import ROOT, set_params

ELBOS = [-100.2, -99.8, -100.0, -100.1, -99.9]


def report(elbo: float, active_units: float = math.nan) -> pd.DataFrame:
    """A table as the evaluate stage writes it."""
    values = {"elbo": elbo, "active_units": active_units}
    return pd.DataFrame({"value": values, "standard_error": 0.2}).dropna().rename_axis("quantity")


def runs(elbos: list[float]) -> list[Run]:
    """One run per seed, and one with another beta."""
    params = flatten(read_yaml(PARAMS))
    found = [(seed, 1.0, report(elbo, 14)) for seed, elbo in enumerate(elbos, start=1)] + [(1, 2.0, report(-130.0, 9))]
    return [
        Run(
            "",
            params | {"seed": seed, "beta": beta},
            table,
            curves={"elbo": pd.DataFrame({"step": [0, 1], "elbo": [-200.0, -99 - seed]})},
        )
        for seed, beta, table in found
    ]


def evaluated(elbo: float, active_units: float = math.nan) -> None:
    write_csv(DEFAULT.tables / "report.csv", report(elbo, active_units), index=True)


@pytest.fixture
def band(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the band of five seeds."""
    monkeypatch.setattr(seeds, "experiments", lambda: runs(ELBOS))
    seeds.main()
    return workspace


@pytest.mark.usefixtures("band")
def test_the_band_is_of_runs_that_differ_only_in_the_seed() -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert expected["seeds"] == [1, 2, 3, 4, 5]
    elbo = expected["quantities"]["elbo"]
    deviation = math.sqrt(0.1 / 4)
    assert elbo["mean"] == pytest.approx(-100.0)
    assert elbo["standard_deviation"] == pytest.approx(deviation)
    assert (elbo["low"], elbo["high"]) == pytest.approx((-100 - 5 * deviation, -100 + 5 * deviation))
    curves = pd.read_csv(seeds.CURVES).set_index(["seed", "epoch"])["elbo"]
    assert curves[:, 1].to_dict() == dict.fromkeys(range(1, 6), -200.0)
    assert curves[:, 2].to_dict() == {seed: -99.0 - seed for seed in range(1, 6)}
    assert seeds.CURVES.with_suffix(".png").is_file()
    # Five equal counts do not imply that a sixth is the same.
    assert expected["quantities"]["active_units"] == {"mean": 14, "standard_deviation": 0, "low": 13, "high": 15}
    assert len(seeds.TABLE.read_text(encoding="utf-8").splitlines()) == 6


@pytest.mark.usefixtures("band")
def test_a_run_inside_the_band_passes_whatever_its_seed(band: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(-100.3, 15)
    set_params(band / "params.yaml", {"seed": 6})
    verify.main()
    lines = capsys.readouterr().out.splitlines()
    assert sum(" inside " in line for line in lines[:-1]) == 2
    assert lines[-1] == "reproduced: all 2 quantities are inside their bands"


@pytest.mark.usefixtures("band")
@pytest.mark.parametrize(("values", "name"), [((-102.0, 14), "elbo"), ((-100.0,), "active_units")])
def test_a_run_outside_the_band_fails_and_the_quantity_is_named(
    values: tuple[float, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(*values)
    with pytest.raises(SystemExit) as exit_:
        verify.main()
    assert exit_.value.code == 1
    output = capsys.readouterr()
    assert output.err == "not reproduced: 1 of 2 quantities are outside of their bands\n"
    lines = [line for line in output.out.splitlines() if "OUTSIDE" in line]
    assert len(lines) == 1
    assert lines[0].split()[0] == name


def test_other_parameters_are_an_error_that_names_them(band: Path) -> None:
    evaluated(-100.0, 14)
    set_params(band / "params.yaml", {"beta": 0.5, "train.epochs": 3})
    with pytest.raises(UserError) as error:
        verify.main()
    assert str(error.value).splitlines() == [
        "params.yaml: beta: the band is of runs with 1.0, got 0.5",
        "params.yaml: train.epochs: the band is of runs with 2, got 3",
    ]


def test_a_section_in_place_of_null_counts_as_different(band: Path) -> None:
    evaluated(-100.0, 14)
    set_params(band / "params.yaml", {"model.decoder": {"conv": [], "hidden": [100]}})
    with pytest.raises(UserError, match=r"params.yaml: model.decoder.hidden: the band is of runs with None, got \[100\]"):
        verify.main()


def test_parameters_without_effect_on_metrics_use_the_same_band(band: Path) -> None:
    evaluated(-100.0, 14)
    set_params(band / "params.yaml", {"plot.samples": 5, "train.threads": 1, "train.checkpoint_every": 7})
    verify.main()


def shown(name: str, seed: int, elbo: float, state: str | None) -> dict[str, Any]:
    """A run as `dvc exp show --json` prints it."""
    data = {
        "params": {"params.yaml": {"data": {"seed": seed, "model": {"decoder": None}}}},
        "metrics": {"results/evaluate/metrics.json": {"data": {"elbo": elbo}}},
    }
    return {"revs": [{"rev": name, "name": f"{name}-name", "data": data}], "executor": {"state": state} if state else None}


def test_only_finished_runs_count_and_of_equal_ones_the_last() -> None:
    workspace = {"rev": "workspace", "experiments": None, "data": shown("", 1, -1.0, None)["revs"][0]["data"]}
    head = {
        "rev": "abc",
        "name": "main",
        "data": shown("", 1, -100.0, None)["revs"][0]["data"],
        "experiments": [
            shown("running", 4, -100.0, "running"),
            shown("newer", 2, -98.0, "success"),
            shown("older", 2, -97.0, "success"),
            shown("applied", 3, -96.0, None),
            shown("waiting", 5, -100.0, "queued"),
            shown("failed", 2, -100.0, "failed"),
        ],
    }
    assert finished([workspace, head]) == {"main": "abc", "newer-name": "newer", "applied-name": "applied"}


def test_a_missing_or_damaged_file_is_one_error_line(band: Path) -> None:
    with pytest.raises(UserError, match=r"workspace: results/evaluate/report.csv: missing; dvc repro writes it"):
        verify.main()
    DEFAULT.tables.mkdir(parents=True)
    for damaged in ("", "quantity,value\nelbo,many\n"):
        (DEFAULT.tables / "report.csv").write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match=r"results/evaluate/report.csv: expected the table that the stage evaluate writes"):
            verify.main()
    (band / EXPECTED).unlink()
    with pytest.raises(UserError, match=r"results/expected.json: missing; make seeds writes it"):
        verify.main()


def test_fewer_than_five_seeds_give_no_band(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "experiments", lambda: runs(ELBOS[:4]))
    with pytest.raises(UserError, match="with 5 seeds or more, got 4; see make seeds"):
        seeds.main()
    assert not (workspace / EXPECTED).exists()


def test_the_committed_results_lie_in_the_committed_band_of_the_committed_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # a parameter that was added since the band was made is a difference
    verify.main()
