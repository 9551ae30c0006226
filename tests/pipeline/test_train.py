"""Training: the same seed gives the same bits; what is written is what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pipeline import evaluate, plot, prepare, train
from pipeline.cli import UserError
from pipeline.model import load_model
from pipeline.params import load_params
from pipeline.paths import CURVES, DIMENSIONS, FIGURES, METRICS, WEIGHTS
from tests.pipeline.conftest import set_params

CPU = torch.device("cpu")


@pytest.fixture
def prepared(workspace: Path) -> Path:
    prepare.main()
    return workspace


def test_same_seed_gives_the_same_weights_and_another_does_not(prepared: Path) -> None:
    files = []
    for seed in (1, 1, 2):
        set_params(prepared / "params.yaml", {"seed": seed})
        train.main()
        files.append(WEIGHTS.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    order = train.epoch_order(1, 0, 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, train.epoch_order(1, 0, 1000))
    assert not torch.equal(order, train.epoch_order(1, 1, 1000))
    assert not torch.equal(order, train.epoch_order(2, 0, 1000))


def test_weights_carry_the_parameters_that_made_them(prepared: Path) -> None:
    train.main()
    with safe_open(WEIGHTS, framework="pt") as file:
        made = json.loads(file.metadata()["vae"])
    assert made["params"] == load_params().model_dump()
    model = load_model(WEIGHTS, CPU)
    assert model.latent_dim == 4
    assert not model.training


def test_curves_have_a_row_an_epoch_and_improve(prepared: Path) -> None:
    set_params(prepared / "params.yaml", {"train.epochs": 4})
    train.main()
    for split in ("train", "validation"):
        for name in ("elbo", "distortion", "rate"):
            rows = (CURVES / f"plots/metrics/{split}/{name}.tsv").read_text().splitlines()
            assert len(rows) == 5
    last = json.loads((CURVES / "metrics.json").read_text())
    assert last["validation"]["elbo"] == pytest.approx(-(last["validation"]["distortion"] + last["validation"]["rate"]))
    elbo = [float(row.split("\t")[1]) for row in (CURVES / "plots/metrics/validation/elbo.tsv").read_text().splitlines()[1:]]
    assert elbo == sorted(elbo)


def test_divergence_is_said_and_writes_no_weights(prepared: Path) -> None:
    set_params(prepared / "params.yaml", {"train.learning_rate": 1e20})
    with pytest.raises(UserError, match=r"training diverged: .*try a lower train.learning_rate"):
        train.main()
    assert not WEIGHTS.exists()


def test_evaluation_adds_up_and_figures_are_drawn(prepared: Path) -> None:
    train.main()
    evaluate.main()
    metrics = json.loads(METRICS.read_text())
    assert set(metrics) == {"elbo", "distortion", "rate", "nll", "active_units"}
    assert metrics["elbo"] == pytest.approx(-(metrics["distortion"] + metrics["rate"]))
    assert metrics["nll"] <= -metrics["elbo"] + 0.5
    import pandas as pd

    assert pd.read_csv(DIMENSIONS)["kl"].sum() == pytest.approx(metrics["rate"], rel=1e-4)
    plot.main()
    names = {"kl_per_dimension", "latent", "learning_curves", "reconstructions", "samples"}
    assert {path.stem for path in FIGURES.iterdir()} == names


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_figures_of_one_and_two_dimensions(prepared: Path, latent_dim: int) -> None:
    set_params(prepared / "params.yaml", {"model.latent_dim": latent_dim, "train.epochs": 1})
    train.main()
    evaluate.main()
    plot.main()


def test_evaluation_does_not_depend_on_the_batch_size(prepared: Path) -> None:
    train.main()
    results = []
    for batch_size in (7, 200):
        set_params(prepared / "params.yaml", {"evaluate.batch_size": batch_size})
        evaluate.main()
        results.append(json.loads(METRICS.read_text()))
    for name, value in results[0].items():
        assert value == pytest.approx(results[1][name], rel=1e-5)


def test_weights_that_are_missing_or_something_else_are_named(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"models/vae.safetensors: missing; run `dvc repro train`"):
        load_model(WEIGHTS, CPU)
    WEIGHTS.parent.mkdir()
    WEIGHTS.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"models/vae.safetensors: expected weights that this version's train stage wrote"):
        load_model(WEIGHTS, CPU)
