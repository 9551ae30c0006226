"""The Python code, output and metrics in README.md and docs/ match what runs and what results/ has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import t  # type: ignore[import-untyped]

from pipeline import prepare, train
from pipeline.studies.compare import compare
from tests.pipeline.conftest import ROOT, set_params
from vae_ext import backend_report

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
HOW_TO = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs/how-to").glob("*.md")}
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
# Number of decimals of each metric, for one run and over seeds.
METRICS = {"elbo": (2, 2), "distortion": (2, 2), "rate": (2, 2), "nll": (2, 2), "active_units": (0, 1)}
METRICS |= {"mutual_information": (2, 3), "probe_accuracy": (3, 4)}


def python_in(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def cells(text: str) -> dict[str, tuple[str, str]]:
    """Parses a table of metrics: the values of one run and of five seeds, by metric."""
    rows = re.findall(r"^\| ([^|:,]+).*?\| \**([-\d.]+)\** \| ([-\d.]+ ± [\d.]+) \|", text, re.MULTILINE)
    return {name.strip().lower().replace(" ", "_"): (value, seeds) for name, value, seeds in rows}


@pytest.fixture
def model(workspace: Path) -> Path:
    set_params(workspace / "params.yaml", {"train.epochs": 1})
    prepare.main()
    train.main()
    return workspace


@pytest.mark.usefixtures("model")
def test_the_python_code_shown_runs() -> None:
    blocks = [block for text in (TEXT, *HOW_TO.values()) for block in python_in(text)]
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_backend_report_is_as_shown() -> None:
    report, text = backend_report(), HOW_TO["operator"]
    labels = [line.split(" on " if " on " in line else ":")[0] for line in report.splitlines()]
    assert len(labels) >= 5
    shown = text[text.index("    vae_ext on torch ") :].split("\n\n")[0].splitlines()
    assert [line.strip().split(" on " if " on " in line else ":")[0] for line in shown] == labels


def test_the_comparison_shown_is_the_one_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    compare(["aevb_mlp_2d", "no_kl"], None)
    (shown,) = re.findall(r"^```text\n(run .*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert capsys.readouterr().out.startswith(shown)


@pytest.mark.parametrize(("text", "count"), [(TEXT, 3), (RESULTS, 7)], ids=["README.md", "docs/results.md"])
def test_the_metrics_shown_are_those_in_results(text: str, count: int) -> None:
    report = pd.read_csv(ROOT / "results/evaluate/report.csv", index_col="quantity")["value"]
    bands = json.loads((ROOT / "results/expected.json").read_text(encoding="utf-8"))["quantities"]
    shown = cells(text)
    assert len(shown) == count
    for name, (value, seeds) in shown.items():
        alone, over_seeds = METRICS[name]
        mean, deviation = bands[name]["mean"], bands[name]["standard_deviation"]
        assert (value, seeds) == (f"{report[name]:.{alone}f}", f"{mean:.{over_seeds}f} ± {deviation:.{over_seeds}f}")


def test_the_band_is_as_wide_as_documented() -> None:
    """Five standard deviations of five seeds; a sixth run differs from their mean by Student's t with 4 degrees of freedom."""
    bands = json.loads((ROOT / "results/expected.json").read_text(encoding="utf-8"))["quantities"]
    for band in bands.values():
        assert band["high"] - band["mean"] == pytest.approx(5 * band["standard_deviation"])
    outside = 2 * t.sf(5 / (1 + 1 / 5) ** 0.5, df=4)
    stated = re.search(
        r"for one metric with (\d+)% probability, and for all seven with at least (\d+)%", " ".join(RESULTS.split())
    )
    assert stated is not None
    assert [float(share) for share in stated.groups()] == [round(100 * (1 - outside)), 100 * (1 - len(bands) * outside) // 1]


def test_the_sweep_shown_ends_in_posterior_collapse() -> None:
    rate = pd.read_csv(ROOT / "results/rate_distortion.csv").set_index("beta")["rate"]
    assert "At `beta: 10` the posterior collapses: the rate is 0" in HOW_TO["experiments"]
    assert (round(rate[10.0], 4), rate.idxmin()) == (0, 10.0)


def test_the_readme_is_short() -> None:
    """It has what a newcomer needs first; the rest is in docs/."""
    assert len(TEXT.splitlines()) <= 170
    assert len(TEXT.encode()) <= 10_000


def test_the_published_numbers_shown_are_those_of_the_recipes() -> None:
    table = pd.read_csv(ROOT / "recipes/results.csv").set_index("recipe")
    rows = re.findall(r"\| (ELBO|NLL) ([-\d.]+) \| (ELBO|NLL) ([-\d.]+) \([^|]*\) \| `(\w+)` \|", RESULTS)
    assert len(rows) == 7
    for metric, published, same, here, recipe in rows:
        assert metric == same
        assert f"{metric.lower()} {published}" in table.loc[recipe, "published"]
        assert here == f"{table.loc[recipe, metric.lower()]:.2f}"
