"""The page of a two-layer model, compared with its card."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd
import pytest

from pipeline import plot
from pipeline.config.paths import DEFAULT
from pipeline.evaluation.collapse import verdict


def test_card_and_page_state_the_verdict_on_both_layers(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained / "gaussian")
    plot.main()
    dimensions = pd.read_csv(DEFAULT.tables / "dimensions.csv")
    assert len(dimensions) == 4 + 3
    for path in (DEFAULT.card, DEFAULT.page):
        assert f"{verdict(dimensions).capitalize()}." in html.unescape(path.read_text(encoding="utf-8")), path
