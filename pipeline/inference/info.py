"""Describes a model from its files: parameters, data, versions and metrics, without loading it."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config.paths import CARD
from pipeline.evaluation.model_card import ERROR, VALUE, as_yaml, read_metrics
from pipeline.models.metadata import Header, weights_of
from pipeline.runtime.errors import UserError


def info(model: Path, header: Header) -> str:
    """Formats a model's description as YAML, with the metrics of its card; a note on standard error says if it has none."""
    weights, made = weights_of(model), asdict(header.metadata)
    metrics: dict[str, Any] = {}
    try:
        for name, (value, error) in read_metrics(weights.parent / CARD, weights).items():
            metrics[name] = {"value": value if isinstance(value, int) else float(f"{value:{VALUE}}")}
            metrics[name] |= {} if math.isnan(error) else {"standard_error": float(f"{error:{ERROR}}")}
    except UserError as reason:
        print(f"note: no metrics: {reason}", file=sys.stderr)
    return as_yaml(
        {
            "model": {"image_shape": made["image_shape"], "parameters": header.parameters},
            **({"metrics": metrics} if metrics else {}),
            **{name: made[name] for name in ("data", "versions", "params")},
        }
    )
