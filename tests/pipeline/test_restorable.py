"""`make restore` removes no model for which it has no other."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.paths import DEFAULT
from pipeline.runtime.errors import UserError
from pipeline.studies import restorable
from pipeline.studies.runs import Run

COMMITTED = Run("HEAD", {}, pd.DataFrame({"value": {"elbo": math.nan, "distortion": 78.0}, "standard_error": 0.1}))


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("is_here", [False, True])
def test_weights_that_are_here_are_kept_where_the_commit_s_are_not_in_the_cache(
    is_cached: bool, is_here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    committed = replace(COMMITTED, weights=Path("cache") if is_cached else None)
    monkeypatch.setattr(restorable, "find_runs", lambda names: [committed])
    if is_here:
        DEFAULT.models.mkdir(parents=True)
        DEFAULT.weights.touch()
    if is_here and not is_cached:
        with pytest.raises(UserError, match=r"^models/default/vae.safetensors: not restored: the last commit's are not in"):
            restorable.main()
    else:
        restorable.main()
        said = capsys.readouterr().out
        assert "go back to the last commit's: distortion 78.00 nats per image\n" in said
        assert ("not in DVC's cache; dvc pull or make repro" in said) == (not is_cached)
