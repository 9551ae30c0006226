"""The profile of a training step accounts for all of its time. Nothing is compared with a clock here."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmarks import step_profile


def test_profile_accounts_for_the_whole_step_and_knows_every_operator_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_profile, "IMAGES", 512)
    monkeypatch.setattr(step_profile, "EPOCHS", 2)
    monkeypatch.setattr(sys, "argv", ["step_profile", str(tmp_path / "profile.csv")])
    step_profile.main()
    table = pd.read_csv(tmp_path / "profile.csv").set_index("kind")
    assert list(table.index) == [*step_profile.KINDS, step_profile.REST]
    assert table["share"].sum() == pytest.approx(1, abs=0.01)
    # A name that PyTorch changes would leave its kind without time.
    assert (table.drop(index=step_profile.REST)["us"] > 0).all()
    assert capsys.readouterr().out.count(" us ") == len(table) + 1
