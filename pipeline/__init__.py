"""The reproducible experiment: prepare, train, evaluate, plot; a stage a file, every parameter in params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import parent as parent

if TYPE_CHECKING:
    from pipeline.trained import Trained


def load(path: str | Path) -> Trained:
    """A trained model, of a folder such as models/default: ``encode``, ``decode``, ``sample``, ``log_prob``.

    Raises:
        pipeline.cli.UserError: if it is missing, or is not what the train stage wrote.
    """
    # torch takes seconds to import, which stages that do without it need not wait for.
    from pipeline.device import choose_device
    from pipeline.trained import Trained

    return Trained(Path(path), choose_device())
