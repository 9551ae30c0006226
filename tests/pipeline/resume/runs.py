"""A run of six epochs, and the same run killed after some steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.capture import CaptureResult

from pipeline import train
from pipeline.config.paths import CHECKPOINTS, DEFAULT
from pipeline.training.step import TrainStep

EPOCHS, STEPS = 6, 5  # 300 images in batches of 64
Files = dict[str, bytes]


class KilledError(BaseException):
    """Stands in for SIGKILL: no code catches it."""


def train_killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, and stops without cleanup after this many steps."""
    taken = 0
    advance = TrainStep.advance

    def counted(self: TrainStep) -> int:
        nonlocal taken
        if taken == steps:
            raise KilledError
        taken += 1
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "advance", counted)
        with pytest.raises(KilledError):
            train.main()


def results() -> Files:
    """Returns the results of a run: its weights and its curves."""
    return {str(path): path.read_bytes() for path in (DEFAULT.weights, *sorted(DEFAULT.curves.rglob("*"))) if path.is_file()}


def checkpoints() -> list[Path]:
    return sorted(CHECKPOINTS.glob("*/step-*"))


def train_again(capsys: pytest.CaptureFixture[str]) -> CaptureResult[str]:
    """Trains, and returns what this run alone printed."""
    capsys.readouterr()
    train.main()
    return capsys.readouterr()
