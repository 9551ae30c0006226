"""Small parameters, from params.yaml but without its reader, which is not on every GPU machine."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.config.params import Data, Evaluate, Model, Objective, Params, Plot, Section, Train
from vae_ext.source import ROOT

SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "objective": Objective,
    "train": Train,
    "evaluate": Evaluate,
    "plot": Plot,
}
SMALL: dict[str, Any] = {"hidden": [32, 16], "latent_dim": 6, "levels": 4, "epochs": 3, "batch_size": 16}


def values() -> dict[str, Any]:
    """What params.yaml holds: sections of lines, whose values are JSON or bare words."""
    found: dict[str, Any] = {}
    section = found
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if (match := re.fullmatch(r"( *)(\w+):(?: ([^#]*?))? *(?:#.*)?", line)) is None:
            continue
        indent, key, text = match.groups()
        section = section if indent else found
        if text is None:
            section = found[key] = {}
            continue
        try:
            section[key] = json.loads(text)
        except json.JSONDecodeError:
            section[key] = text
    return found


def plain_params(**changes: Any) -> Params:
    """Small ones, with these changes: each key goes to the section that has it, of those that a step reads."""
    whole = values()
    sections = {name: whole.pop(name) for name in SECTIONS}
    parts = [whole, *(sections[name] for name in ("model", "objective", "train"))]
    for key, value in (SMALL | changes).items():
        (part,) = (part for part in parts if key in part)
        part[key] = value
    return Params(**whole | {name: kind(**sections[name]) for name, kind in SECTIONS.items()})
