"""What a model's files say: its parameters, data, versions and metrics, without loading it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.config.paths import CARD
from pipeline.evaluation.model_card import as_yaml, read_metrics
from pipeline.models.metadata import Header, weights_of


def info(model: Path, header: Header) -> str:
    """As YAML.

    Raises:
        UserError: if the card beside the weights is missing, or of others.
    """
    weights, made = weights_of(model), asdict(header.metadata)
    return as_yaml(
        {
            "model": {"image_shape": made["image_shape"], "parameters": header.parameters},
            "metrics": read_metrics(weights.parent / CARD, weights),
            **{name: made[name] for name in ("data", "versions", "params")},
        }
    )
