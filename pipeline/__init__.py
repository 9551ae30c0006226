"""The reproducible experiment: prepare, train, evaluate, plot; one file per stage, all parameters in params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runtime import parent as parent

if TYPE_CHECKING:
    from pipeline.inference.model import TrainedModel


def load(path: str | Path) -> TrainedModel:
    """Loads a trained model from a folder such as models/default; it has ``encode``, ``decode``, ``sample``, ``log_prob``.

    Raises:
        pipeline.runtime.errors.UserError: if the folder is missing, or the train stage did not write it.
    """
    # torch takes seconds to import; stages that do not use it need not wait.
    from pipeline.inference.model import TrainedModel
    from pipeline.runtime.device import choose_device

    return TrainedModel(Path(path), choose_device())
