"""The reproducible experiment: prepare, train, evaluate, plot; one file per stage, every parameter in params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runtime import parent as parent

if TYPE_CHECKING:
    from pipeline.inference.model import TrainedModel


def load(path: str | Path) -> TrainedModel:
    """A trained model, of a folder such as models/default: ``encode``, ``decode``, ``sample``, ``log_prob``.

    Raises:
        pipeline.runtime.errors.UserError: if it is missing, or is not what the train stage wrote.
    """
    # torch takes seconds to import, which stages that do without it need not wait for.
    from pipeline.inference.model import TrainedModel
    from pipeline.runtime.device import choose_device

    return TrainedModel(Path(path), choose_device())
