"""Trained models of every kind, each in its own folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pipeline import evaluate, prepare, train
from tests.pipeline.conftest import ROOT, SMALL, set_params, small_mnist
from tests.pipeline.own_images import colours

KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "binarized": {"binarize": True},
    "gaussian": {"model.likelihood": "gaussian", "model.scale": "softplus", "model.top": {"hidden": [8], "latent_dim": 3}},
    "categorical": {"model.likelihood": "categorical", "model.conv": [[4, 2]]},
    "autoencoder": {"model.posterior": "deterministic", "train.epochs": 1},
    "conditional": {"model.condition": "label", "model.prior": "label"},
    "colours": {"data.path": "data/raw/x.npz", "data.validation": 20, "data.test": 20, "model.conv": [[4, 2], [8, 2]]},
}


def train_each_kind(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, changes in KINDS.items():
            (folder / name / "data/raw").mkdir(parents=True)
            patch.chdir(folder / name)
            small_mnist(Path("data/raw/small"))
            np.savez("data/raw/x.npz", images=colours(100, 13, 17))
            shutil.copy(ROOT / "params.yaml", ".")
            set_params(Path("params.yaml"), {**SMALL, **changes})
            for stage in (prepare, train, evaluate):
                stage.main()


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, one of each kind, trained and evaluated once for all test files and processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    ready = base / "trained"
    with FileLock(base / "trained.lock"):
        if not ready.exists():
            making = tmp_path_factory.mktemp("trained")
            train_each_kind(making)
            making.rename(ready)
    return ready


@pytest.fixture(scope="module")
def trained(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for the tests of one file, which may write to it."""
    return Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("models"), dirs_exist_ok=True))


@pytest.fixture(params=KINDS)
def kind(trained: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kind of model, in whose folder the test runs."""
    monkeypatch.chdir(trained / request.param)
    return str(request.param)


@pytest.fixture
def plain(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained / "plain")
    return trained / "plain"
