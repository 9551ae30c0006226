"""The parameters that a model and a step read, without params.yaml, whose own reader is not on every GPU machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

MODEL: dict[str, Any] = {
    "conv": [],
    "hidden": [32, 16],
    "decoder": None,
    "activation": "relu",
    "latent_dim": 6,
    "posterior": "normal",
    "scale": "exp",
    "logvar_bound": 20.0,
    "likelihood": "bernoulli",
    "sigma": None,
    "levels": 4,
}
OBJECTIVE: dict[str, Any] = {
    "bound": "elbo",
    "samples": 1,
    "first_samples": 1,
    "first_epochs": 0,
    "kl": "closed_form",
    "warm_up": 0,
    "free_bits": 0.0,
    "sparsity": 0.0,
    "noise": 0.0,
    "dropout": 0.0,
}
TRAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 16,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "betas": [0.9, 0.999],
    "epsilon": 1e-8,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip": None,
    "precision": "float32",
}
TOP: dict[str, Any] = {"seed": 1, "beta": 1.0, "binarize": False}


def plain_params(**changes: Any) -> Any:
    """Small ones, with these changes: each key goes to the section that has it."""
    sections = {"model": MODEL, "objective": OBJECTIVE, "train": TRAIN}
    unknown = set(changes) - set(TOP) - set().union(*sections.values())
    assert not unknown, unknown

    def changed(section: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(**{key: changes.get(key, value) for key, value in section.items()})

    params = changed(TOP)
    for name, section in sections.items():
        setattr(params, name, changed(section))
    return params
