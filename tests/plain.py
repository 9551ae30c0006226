"""Small parameters, without reading params.yaml: not every GPU machine has the packages for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.params import Data, Evaluate, Model, Objective, Params, Plot, Train

SMALL_PARAMS = Path(__file__).parent / "small_params.json"


def plain_params(**changes: Any) -> Params:
    """Returns the small parameters with these changes; each key is changed in the section that has it."""
    values = json.loads(SMALL_PARAMS.read_text(encoding="utf-8"))
    for key, value in changes.items():
        (section,) = (some for some in (values, values["model"], values["objective"], values["train"]) if key in some)
        section[key] = value
    for kind in (Data, Model, Objective, Train, Evaluate, Plot):
        name = kind.__name__.lower()
        values[name] = kind(**values[name])
    return Params(**values)
