"""`make restore` deletes no model that it cannot replace."""

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


@pytest.mark.parametrize("are_these_cached", [False, True])
@pytest.mark.parametrize("are_the_commit_s_cached", [False, True])
@pytest.mark.parametrize("is_here", [False, True])
def test_uncached_weights_are_kept_and_cached_ones_are_replaced(
    are_these_cached: bool,
    are_the_commit_s_cached: bool,
    is_here: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    committed = replace(COMMITTED, weights=Path("cache") if are_the_commit_s_cached else None)
    monkeypatch.setattr(restorable, "find_runs", lambda names: [committed])
    monkeypatch.setattr(restorable, "_is_cached", lambda weights: are_these_cached)
    if is_here:
        DEFAULT.models.mkdir(parents=True)
        DEFAULT.weights.touch()
    if is_here and not are_these_cached and not are_the_commit_s_cached:
        with pytest.raises(UserError, match=r"^models/default/vae.safetensors: not restored: neither this file nor the last"):
            restorable.main()
    else:
        restorable.main()
        output = capsys.readouterr().out
        assert "go back to the last commit's: distortion 78.00 nats per image\n" in output
        assert ("the last commit's is not in DVC's cache; make repro" in output) == (not are_the_commit_s_cached)
        assert ("The previous one stays in the cache" in output) == (is_here and not are_the_commit_s_cached)
