"""The evaluate stage: its quantities, and invalid weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline import evaluate, plot, train
from pipeline.config.paths import DEFAULT
from pipeline.evaluation.metrics import QUANTITIES, TRACKED, mean_and_error
from pipeline.models import metadata
from pipeline.models.serialization import load_model
from pipeline.runtime.errors import UserError
from tests.pipeline.conftest import set_params

CPU = torch.device("cpu")


def test_nonfinite_results_are_one_error_line(prepared: Path) -> None:
    train.main()
    with safe_open(DEFAULT.weights, framework="pt") as file:
        made, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({name: tensor * 1e30 for name, tensor in tensors.items()}, DEFAULT.weights, metadata=made)
    with pytest.raises(UserError, match=r"vae.safetensors: expected finite results, got (nan|-?inf) as \w+"):
        evaluate.main()
    assert not DEFAULT.metrics.exists()


def test_evaluated_quantities_are_consistent(prepared: Path) -> None:
    import pandas as pd

    train.main()
    evaluate.main()
    metrics = json.loads(DEFAULT.metrics.read_text(encoding="utf-8"))
    assert sorted(metrics) == sorted(TRACKED)
    assert metrics["elbo"] == pytest.approx(-(metrics["distortion"] + metrics["rate"]))
    assert metrics["nll"] <= -metrics["elbo"] + 0.5
    dimensions, report, nll = (pd.read_csv(DEFAULT.tables / f"{name}.csv") for name in ("dimensions", "report", "nll"))
    assert dimensions["kl"].sum() == pytest.approx(metrics["rate"], rel=1e-4)
    values = report.set_index("quantity")["value"]
    assert list(values.index) == list(QUANTITIES)
    assert values["mutual_information"] + values["marginal_kl"] == pytest.approx(metrics["rate"], rel=1e-4)
    assert values["distortion_at_mu"] < values["distortion"]
    assert nll["nll"].iloc[-1] == pytest.approx(metrics["nll"], rel=1e-5)


def test_standard_errors_equal_the_standard_deviation_of_the_mean() -> None:
    values = torch.randn(400, 900, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7
    found = [mean_and_error(row) for row in values]
    means, errors = zip(*found, strict=True)
    assert torch.tensor(errors).mean().item() == pytest.approx(0.1, rel=0.01)
    assert torch.tensor(means).std().item() == pytest.approx(0.1, rel=0.1)


def test_figures_of_one_dimension_and_of_binarized_images_are_drawn(prepared: Path) -> None:
    """Those of two dimensions and of more are drawn in the tests of recipes."""
    set_params(prepared / "params.yaml", {"model.latent_dim": 1, "train.epochs": 1, "binarize": True})
    train.main()
    evaluate.main()
    plot.main()
    assert {"latent", "interpolations"} <= {path.stem for path in DEFAULT.figures.iterdir()}


def test_evaluation_does_not_depend_on_the_batch_size(prepared: Path) -> None:
    train.main()
    results = []
    for batch_size in (7, 200):
        set_params(prepared / "params.yaml", {"evaluate.batch_size": batch_size})
        evaluate.main()
        results.append(json.loads(DEFAULT.metrics.read_text(encoding="utf-8")))
    for name, value in results[0].items():
        assert value == pytest.approx(results[1][name], rel=1e-5)


def test_missing_or_invalid_weights_are_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "ROOT", workspace / "elsewhere")  # this checkout may have a model
    with pytest.raises(UserError, match=r"models/default/vae.safetensors: missing; in .*, make repro trains it"):
        load_model(DEFAULT.weights, CPU)
    DEFAULT.weights.parent.mkdir(parents=True)
    DEFAULT.weights.write_bytes(b"not weights")
    with pytest.raises(
        UserError, match=r"models/default/vae.safetensors: expected weights that this version's train stage wrote"
    ):
        load_model(DEFAULT.weights, CPU)
