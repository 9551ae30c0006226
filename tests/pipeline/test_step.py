"""Steps give the same results replayed in a CUDA graph or run one by one. Needs torch and NumPy only, no parameter file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.params import Top
from pipeline.data.batches import Batch, InMemoryImages
from pipeline.models.kinds import build_model
from pipeline.runtime.device import choose_device
from pipeline.training import step
from pipeline.training.distributed import Group
from pipeline.training.step import REPLAYED, TrainStep
from tests.forked import run_code, run_forked
from tests.plain import plain_params
from vae_ext.source import ROOT

BATCH, CLASSES, ALONE = 16, 3, Group()
IMAGES = (2 * REPLAYED + 3) * BATCH + 5  # two replays of many steps, three of one, and a partial batch
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))

# One of each kind of step: manual gradient and autograd, each optimiser and objective.
CHANGES: list[dict[str, Any]] = [
    {},
    {"binarize": True},
    {"precision": "bfloat16"},
    {"initial_samples": 3, "initial_epochs": 1},
    {"optimizer": "adamw", "weight_decay": 0.1, "warm_up": 1},
    {"bound": "iwae", "samples": 3, "initial_samples": 2, "initial_epochs": 1, "activation": "tanh"},
    {"optimizer": "muon", "activation": "tanh"},
    {"optimizer": "rmsprop", "posterior": "deterministic", "input_noise": 0.3, "input_dropout": 0.2, "sparsity": 0.1},
    {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-4, "grad_clip_norm": 1.0, "free_bits": 0.1},
    {"likelihood": "gaussian", "kl": "monte_carlo", "samples": 2, "scale": "softplus"},
    {"likelihood": "categorical", "conv": [[4, 2]]},
    {"condition": "label", "prior": "label", "optimizer": "muon"},
    {"top": Top(hidden=[8], latent_dim=3), "free_bits": 0.01},
]

BLOCKED = """
import sys
blocked = {"pydantic", "ruamel", "dvc", "dvclive", "safetensors", "tqdm"}
sys.modules.update(dict.fromkeys(blocked | {name for name in sys.modules if name.partition(".")[0] in blocked}))
import tests.benchmarks.gpu, tests.benchmarks.measure, tests.benchmarks.bench_step, tests.pipeline.test_step
"""


def train_step(device: str, group: Group = ALONE, **changes: Any) -> TrainStep:
    params = plain_params(batch_size=BATCH, **{"beta": 0.5, **changes})
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 9, 9), np.uint8)
    choose_device()  # sets how a GPU convolves
    torch.manual_seed(0)
    device_ = torch.device(device)
    model = build_model((9, 9), params.model, CLASSES).to(device_)
    labels = np.arange(IMAGES, dtype=np.uint8) % CLASSES if model.uses_classes else None
    return TrainStep(model, InMemoryImages(images, device_, labels), params, group)


def run_epochs(train_step: TrainStep) -> None:
    for epoch in range(2):
        train_step.begin(epoch)
        while train_step.position < train_step.steps:
            train_step.advance()


def test_what_a_gpu_machine_runs_needs_only_torch_and_numpy() -> None:
    done = run_forked(run_code, BLOCKED, folder=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("changes", CHANGES)
def test_replayed_steps_equal_single_steps(device: str, changes: dict[str, Any]) -> None:
    replayed, one_by_one = train_step(device, **changes), train_step(device, **changes)
    one_by_one.replays = False
    run_epochs(replayed)
    run_epochs(one_by_one)
    assert len(replayed.graphs) == 3
    for name, tensor in replayed.changing().items():
        assert torch.equal(tensor, one_by_one.changing()[name]), name


@pytest.mark.parametrize("device", [GPU])
def test_the_first_step_on_a_gpu_equals_that_on_a_cpu_up_to_rounding(device: str) -> None:
    here, there = train_step("cpu", binarize=True), train_step(device, binarize=True)
    for each in (here, there):
        each.begin(1)
        each.step(BATCH)
    torch.testing.assert_close(there.record[0].cpu(), here.record[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(there.order.cpu(), here.order)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(("position", "changes"), [(1, {}), *((7, changes) for changes in CHANGES)])
def test_a_restored_state_continues_to_the_same_bits(device: str, position: int, changes: dict[str, Any]) -> None:
    whole, resumed = train_step(device, **changes), train_step(device, **changes)
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
def test_every_image_is_used_once_per_epoch(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    this = train_step(device)
    this.replays = False
    used: list[torch.Tensor] = []
    take = this.images.take

    def noting(rows: torch.Tensor, *rest: Any) -> Batch:
        used.append(rows.clone())
        return take(rows, *rest)

    monkeypatch.setattr(this.images, "take", noting)
    this.begin(0)
    while this.position < this.steps:
        this.advance()
    assert torch.equal(torch.cat(used).cpu().sort().values, torch.arange(IMAGES))


@pytest.mark.parametrize("changes", CHANGES)
def test_every_kind_of_step_lowers_the_loss(changes: dict[str, Any]) -> None:
    this = train_step("cpu", **{"learning_rate": 3e-3, **changes})
    losses = []
    for epoch in range(2):
        this.begin(epoch)
        while this.position < this.steps:
            this.advance()
        losses.append(this.record[:, :2].mean(0).sum().item())
        layers = torch.cat([p.grad.flatten() for p in this.model.parameters() if p.grad is not None])
        assert torch.equal(layers, this.gradient)
        assert len(this.record[:, 2].unique()) > 1
    assert not this.optimizer.nonfinite
    assert losses[1] < losses[0]


def test_beta_rises_during_warm_up_and_then_stays_constant() -> None:
    this = train_step("cpu", warm_up=2, beta=0.5)
    rising = []
    for epoch in range(3):
        this.begin(epoch)
        rising.append(this.betas.clone())
    steps = torch.arange(1, 2 * this.steps + 1) / (2 * this.steps)
    torch.testing.assert_close(torch.cat(rising[:2]), 0.5 * steps)
    assert (rising[2] == 0.5).all()


def test_initial_epochs_use_initial_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    this = train_step("cpu", bound="iwae", samples=5, initial_samples=2, initial_epochs=1)
    decode, shapes = this.model.decode, []

    def noting(z: torch.Tensor, *args: Any) -> torch.Tensor:
        shapes.append(z.shape[0])
        return decode(z, *args)

    monkeypatch.setattr(this.model, "decode", noting)
    for epoch in (0, 1):
        this.begin(epoch)
        this.advance()
    assert shapes == [2, 5]


def test_corruption_applies_to_the_encoders_input_and_not_to_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    this = train_step("cpu", input_noise=0.5)
    seen, explained = [], []
    posterior, log_prob = this.model.posterior, this.model.likelihood.log_prob

    def noting_x(x: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.append(x)
        return posterior(x, *args)

    def noting_pixels(decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        explained.append(pixels)
        return log_prob(decoded, pixels)

    monkeypatch.setattr(this.model, "posterior", noting_x)
    monkeypatch.setattr(this.model.likelihood, "log_prob", noting_pixels)
    this.begin(0)
    examples, x = this.images.take(this.order[0])
    this.step(BATCH)
    assert torch.equal(explained[0], examples.pixels)
    assert (seen[0] - x).std().item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("mine", [False, True])
def test_muon_multiplies_in_bfloat16_if_every_process_has_it(mine: bool, other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(Group):
        def any_rank(self, mine: bool) -> bool:
            return mine or not other

    monkeypatch.setattr(step, "has_bfloat16", lambda _device: mine)
    expected = torch.bfloat16 if mine and other else torch.float32
    assert train_step("cpu", Pair(), optimizer="muon").optimizer.muon_dtype is expected
