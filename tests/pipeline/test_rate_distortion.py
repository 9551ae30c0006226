"""Rate against distortion: what can't be drawn is said. What can is drawn from experiments in test_dvc.py."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.runtime.errors import UserError
from pipeline.studies import rate_distortion


@pytest.mark.usefixtures("workspace")
def test_one_beta_makes_no_curve_and_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_distortion, "betas", lambda: pd.DataFrame({"beta": [1.0, 1.0]}))
    with pytest.raises(UserError, match="expected experiments of at least two betas, got 1; make sweep runs some"):
        rate_distortion.main()
    assert not Path("results").exists()
