"""Rate against distortion: errors. Plots of real experiments are tested in test_experiments.py."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.keys import flatten
from pipeline.config.paths import PARAMS
from pipeline.config.plain_yaml import read_yaml
from pipeline.runtime.errors import UserError
from pipeline.studies import rate_distortion
from pipeline.studies.runs import Run


@pytest.mark.usefixtures("workspace")
def test_a_single_beta_is_an_error_and_writes_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_distortion, "betas", lambda: pd.DataFrame({"beta": [1.0, 1.0]}))
    with pytest.raises(UserError, match="expected experiments of at least two betas, got 1; make sweep runs some"):
        rate_distortion.main(Path("out"))
    assert not Path("out").exists()


def test_parameters_without_effect_on_rate_and_distortion_do_not_split_a_curve(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = flatten(read_yaml(PARAMS))
    found = pd.DataFrame({"value": dict.fromkeys(rate_distortion.METRICS, 1.0), "standard_error": 0.1})
    neutral = {"evaluate.importance_samples": 7, "train.threads": 3, "plot.samples": 5}
    changes = ({"beta": 0.5}, {"beta": 2.0, **neutral}, {"beta": 4.0, "train.epochs": 1}, {"beta": 3.0, "seed": 9})
    runs = [Run("", params | change, found) for change in changes]
    monkeypatch.setattr(rate_distortion, "experiments", lambda: runs)
    table = rate_distortion.betas()
    assert table.groupby("else")["beta"].apply(list).to_dict() == {
        "": [0.5, 2.0],
        "seed=9": [3.0],
        "train.epochs=1": [4.0],
    }
