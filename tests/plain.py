"""Small parameters, without the reader of params.yaml, which is not on every GPU machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.params import Data, Evaluate, Model, Objective, Params, Plot, Train

SMALL_PARAMS = Path(__file__).parent / "small_params.json"


def plain_params(**changes: Any) -> Params:
    """The small ones with these changes: each key goes to the section that has it, of those that a step reads."""
    values = json.loads(SMALL_PARAMS.read_text(encoding="utf-8"))
    for key, value in changes.items():
        (section,) = (some for some in (values, values["model"], values["objective"], values["train"]) if key in some)
        section[key] = value
    for kind in (Data, Model, Objective, Train, Evaluate, Plot):
        name = kind.__name__.lower()
        values[name] = kind(**values[name])
    return Params(**values)
