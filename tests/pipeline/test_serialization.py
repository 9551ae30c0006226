"""Weights files that the train stage did not write: one error line, before memory of their size is allocated."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pipeline
from pipeline.config.validation import load_params
from pipeline.models import serialization
from pipeline.models.serialization import load_model
from pipeline.models.vae import VAE
from pipeline.runtime.errors import UserError
from tests.pipeline.conftest import ROOT

DATA: dict[str, Any] = {"source": "x", "classes": None, "values": "grey", "counts": {}, "sha256": {}}
EARLIER = Path(__file__).parent / "old_weights"  # models of 4 x 4 images, and their outputs when they were saved
TENSORS = {"encoder.0.weight": torch.zeros(3, 4)}


def write(path: Path, shape: Any = (28, 28), **model: object) -> None:
    """Writes a file with one small tensor, whose header describes this model."""
    params = asdict(load_params(ROOT / "params.yaml"))
    params["model"].update(model)
    metadata = {"image_shape": shape, "params": params, "data": DATA, "versions": {}}
    save_file(TENSORS, path, metadata={"vae": json.dumps(metadata)})


@pytest.mark.parametrize(
    "model",
    [
        {"hidden": [40_000, 40_000]},
        {"latent_dim": 10**12},
        {"latent_dim": 10**30},
        {"shape": (10**9, 10**9)},
        {"shape": (10**30, 1), "conv": [[4, 2]]},
        {"conv": [[10**9, 1]]},
    ],
    ids=str,
)
def test_a_header_of_a_huge_model_allocates_nothing(
    tmp_path: Path, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*args: Any) -> VAE:
        assert torch.get_default_device().type == "meta"
        return VAE(*args)

    monkeypatch.setattr(serialization, "VAE", without_memory)
    write(tmp_path / "x.safetensors", **model)
    with pytest.raises(UserError, match=r"x.safetensors: expected weights that this version's train stage wrote: "):
        load_model(tmp_path / "x.safetensors", torch.device("cpu"))


def test_a_header_of_another_model_is_rejected(tmp_path: Path) -> None:
    for change in ({}, {"scale": "cubic"}, {"shape": [28]}, {"shape": "28 x 28"}):
        write(tmp_path / "x.safetensors", **change)
        with pytest.raises(UserError, match=r"x.safetensors: expected weights that this version's train stage wrote: "):
            load_model(tmp_path / "x.safetensors", torch.device("cpu"))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Opening a named pipe would block."""
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.safetensors: expected a file of weights, got something else"):
        load_model(tmp_path / "x.safetensors", torch.device("cpu"))


@pytest.mark.parametrize("name", ["normal", "point"])
def test_models_saved_by_earlier_versions_give_the_same_outputs(name: str) -> None:
    model = pipeline.load(EARLIER / f"{name}.safetensors")
    before = json.loads((EARLIER / f"{name}.json").read_text(encoding="utf-8"))
    mu, sigma = model.encode(np.arange(16, dtype=np.uint8).reshape(1, 4, 4) * 17)
    for values, key in ((mu, "mu"), (sigma, "sigma"), (model.decode(mu), "decoded")):
        torch.testing.assert_close(values.cpu(), torch.tensor(before[key]), rtol=1e-4, atol=1e-6)
