"""Figures show class names legibly, whatever and how many they are."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import font_manager

from pipeline.figures import class_names
from pipeline.figures.class_names import legible, shortened
from pipeline.figures.latent import latent_plane
from pipeline.runtime import progress
from pipeline.runtime.progress import announce, progress_bar

LONG = ("a_class_with_a_very_long_name_" * 4)[:120]


def test_long_names_are_shortened_in_the_middle_and_stay_distinct() -> None:
    names, _ = legible([LONG, "short", f"{LONG[:60]}x{LONG[60:]}"])
    assert names == ["0: a_class_with…_long_name_", "short", "2: a_class_with…_long_name_"]
    assert shortened("猫" * 30) == f"{'猫' * 6}…{'猫' * 5}"
    assert shortened("two\nlines") == "two lines"


def test_names_without_a_font_are_replaced_by_numbers_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    assert legible(["cat", "猫", "Кошка"]) == (["cat", "class 1", "Кошка"], ["sans-serif"])
    assert capsys.readouterr().out == "note: figures number 1 of 3 classes: no font here can draw '猫'\n"


def test_a_font_with_the_characters_is_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    own = class_names._characters
    font = font_manager.FontEntry(fname="cjk.ttf", name="Noto Sans CJK SC")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [font])
    monkeypatch.setattr(class_names, "_characters", lambda path: frozenset("猫犬") if path == "cjk.ttf" else own(path))
    assert legible(["猫", "a"]) == (["猫", "a"], ["sans-serif", "Noto Sans CJK SC"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("names", [["猫", "犬"], [LONG, "$5"], [str(i) for i in range(3000)]], ids=["cjk", "long", "many"])
def test_latent_figure_is_drawn_without_warnings_and_keeps_its_planes(tmp_path: Path, names: list[str]) -> None:
    labels = (np.arange(60) % len(names)).astype(np.uint16)
    with warnings.catch_warnings():  # about missing glyphs, or a layout without room
        warnings.simplefilter("error")
        latent_plane(tmp_path / "x.png", torch.randn(60, 3), labels, names)


def test_a_log_has_occasional_progress_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sys.stderr.isatty()
    monkeypatch.setattr(progress, "EVERY", 0)
    announce("figures")
    with progress_bar(3000, "NLL") as bar:
        for _ in range(3):
            bar.update(1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "figures ..."
    assert lines[1].startswith("NLL: 0 of 3000 images, ")
    assert lines[-1].startswith("NLL: 3000 of 3000 images, ")
