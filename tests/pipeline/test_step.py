"""A step is the same replayed in a CUDA graph or taken by itself. These tests need torch and NumPy: no parameter file."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.images import Batch, Resident
from pipeline.model import VAE
from pipeline.parallel import Group
from pipeline.step import REPLAYED, Stepper
from vae_ext.source import ROOT

BATCH = 16
IMAGES = (2 * REPLAYED + 3) * BATCH + 5  # two replays of many steps, three of one, and a batch that is not full
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(("pydantic", "ruamel", "ruamel.yaml", "dvc", "dvclive", "safetensors", "tqdm")))
import tests.benchmarks.gpu, tests.benchmarks.bench_step, tests.pipeline.test_step
"""


def stepper(device: str, **changes: Any) -> Stepper:
    train = {"epochs": 3, "batch_size": BATCH, "learning_rate": 1e-3, "precision": "float32"}
    own = {"seed": 1, "beta": 0.5, "binarize": False, **{k: v for k, v in changes.items() if k not in train}}
    params: Any = SimpleNamespace(**own, train=SimpleNamespace(**{k: changes.get(k, v) for k, v in train.items()}))
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 9, 9), np.uint8)
    torch.manual_seed(0)
    model: Any = SimpleNamespace(hidden=[32, 16], latent_dim=6, logvar_bound=20.0)
    return Stepper(VAE(81, model).to(device), Resident(images, torch.device(device)), params, Group())


def run_epochs(stepper: Stepper) -> None:
    for epoch in range(2):
        stepper.begin(epoch)
        while stepper.position < stepper.steps:
            stepper.advance()


def test_what_a_gpu_machine_runs_needs_no_package_of_the_pipelines() -> None:
    subprocess.run([sys.executable, "-c", BLOCKED], cwd=ROOT, check=True)


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("changes", [{}, {"binarize": True}, {"precision": "bfloat16"}])
def test_replayed_steps_are_those_taken_one_by_one(device: str, changes: dict[str, Any]) -> None:
    replayed, one_by_one = stepper(device, **changes), stepper(device, **changes)
    one_by_one.replays = False
    run_epochs(replayed)
    run_epochs(one_by_one)
    assert len(replayed.graphs) == 3
    for name, tensor in replayed.changing().items():
        assert torch.equal(tensor, one_by_one.changing()[name]), name


@pytest.mark.parametrize("device", [GPU])
def test_the_first_step_on_a_gpu_is_that_on_a_cpu_but_for_rounding(device: str) -> None:
    here, there = stepper("cpu", binarize=True), stepper(device, binarize=True)
    for each in (here, there):
        each.begin(1)
        each.step(BATCH)
    torch.testing.assert_close(there.record[0].cpu(), here.record[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(there.order.cpu(), here.order)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("position", [1, 7])
def test_a_state_put_back_goes_on_to_the_same_bits(device: str, position: int) -> None:
    whole, resumed = stepper(device), stepper(device)
    for each in (whole, resumed):
        each.replays = False
    whole.begin(1)
    saved: dict[str, torch.Tensor] = {}
    while whole.position < whole.steps:
        if whole.position == position:
            saved = {name: t.cpu().clone() for name, t in whole.state().items()}
        whole.advance()
    resumed.load(saved)
    resumed.begin(1, position)
    while resumed.position < resumed.steps:
        resumed.advance()
    for name, tensor in whole.changing().items():
        assert torch.equal(tensor, resumed.changing()[name]), name


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_image_is_met_once_an_epoch(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    this = stepper(device)
    this.replays = False
    met: list[torch.Tensor] = []
    take = this.images.take

    def noting(rows: torch.Tensor, *rest: Any) -> Batch:
        met.append(rows.clone())
        return take(rows, *rest)

    monkeypatch.setattr(this.images, "take", noting)
    this.begin(0)
    while this.position < this.steps:
        this.advance()
    assert torch.equal(torch.cat(met).cpu().sort().values, torch.arange(IMAGES))
