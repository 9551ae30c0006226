"""Training: the same seed gives the same bits, and the trained weights are saved."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from pipeline import train
from pipeline.config.paths import CHECKPOINTS, DEFAULT
from pipeline.config.validation import load_params
from pipeline.data.batches import InMemoryImages, MemmapImages, byte_means
from pipeline.data.prepared import read_split
from pipeline.data.tensors import Examples
from pipeline.models.objectives import Terms
from pipeline.models.serialization import load_model
from pipeline.runtime import progress
from pipeline.runtime.errors import UserError
from pipeline.training import trainer
from pipeline.training.step import TrainStep, epoch_order
from pipeline.training.trainer import Trainer
from tests.pipeline.conftest import set_params

CPU = torch.device("cpu")


def last_metrics() -> dict[str, dict[str, float]]:
    """Returns the metrics of the last epoch."""
    metrics: dict[str, dict[str, float]] = json.loads((DEFAULT.curves / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def test_same_seed_gives_the_same_weights_and_another_does_not(prepared: Path) -> None:
    files = []
    for seed in (1, 1, 2):
        set_params(prepared / "params.yaml", {"seed": seed})
        train.main()
        files.append(DEFAULT.weights.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_missing_data_are_reported_before_training_starts(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"data/prepared/manifest.json: missing; run `dvc repro prepare`"):
        train.main()
    assert not DEFAULT.curves.exists()
    assert not CHECKPOINTS.exists()


def test_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    order = epoch_order(1, 0, 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, epoch_order(1, 0, 1000))
    assert not torch.equal(order, epoch_order(1, 1, 1000))
    assert not torch.equal(order, epoch_order(2, 0, 1000))


def test_the_weights_file_holds_the_parameters_of_its_run(prepared: Path) -> None:
    train.main()
    with safe_open(DEFAULT.weights, framework="pt") as file:
        made = json.loads(file.metadata()["vae"])
    assert made["params"] == asdict(load_params())
    model, _ = load_model(DEFAULT.weights, CPU)
    assert model.latent_dim == 4
    assert not model.training


def test_curves_have_a_row_per_epoch_and_improve(prepared: Path) -> None:
    set_params(prepared / "params.yaml", {"train.epochs": 4})
    train.main()
    for split in ("train", "validation"):
        for name in ("elbo", "distortion", "rate"):
            assert len(pd.read_csv(DEFAULT.curves / f"plots/metrics/{split}/{name}.tsv", sep="\t")) == 4
    last = last_metrics()
    assert last["validation"]["elbo"] == pytest.approx(-(last["validation"]["distortion"] + last["validation"]["rate"]))
    assert pd.read_csv(DEFAULT.curves / "plots/metrics/validation/elbo.tsv", sep="\t")["elbo"].is_monotonic_increasing


def poison(monkeypatch: pytest.MonkeyPatch, step: int, term: str) -> None:
    """Makes one term of one step infinite."""
    write_gradient = TrainStep.write_gradient
    calls = 0

    def poisoned(self: TrainStep, *args: Any) -> Terms:
        nonlocal calls
        terms = write_gradient(self, *args)
        if calls == step:
            {"rate": terms.rate, "distortion": terms.distortion, "gradient": self.gradient}[term][3] = torch.inf
        calls += 1
        return terms

    monkeypatch.setattr(TrainStep, "write_gradient", poisoned)


def test_a_log_has_occasional_lines_of_training_progress(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also within an epoch: a batch of 50 is a sixth of one."""
    set_params(prepared / "params.yaml", {"train.batch_size": 50})
    train.main()
    assert "training:" not in capsys.readouterr().err
    monkeypatch.setattr(progress, "EVERY", 0)
    train.main()
    lines = re.findall(r"^training: (\d+) of 600 images, 00:\d\d so far, .* to go$", capsys.readouterr().err, re.MULTILINE)
    assert {"50", "350", "600"} <= set(lines)


@pytest.mark.parametrize("term", ["rate", "distortion", "gradient"])
def test_nonfinite_term_ends_the_run_and_is_named(prepared: Path, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    set_params(prepared / "params.yaml", {"train.batch_size": 64})
    poison(monkeypatch, 7, term)
    with pytest.raises(UserError) as error:
        train.main()
    (newest,) = CHECKPOINTS.glob("*/step-0000000005")
    assert str(error.value) == (
        f"training diverged: in step 8 (epoch 2) the {term} was NaN or infinite, before any other; the last good checkpoint is "
        f"{newest}; try a lower train.learning_rate, or train.on_nonfinite: skip, which goes on from there"
    )
    assert not DEFAULT.weights.exists()


@pytest.mark.parametrize("term", ["rate", "distortion", "gradient"])
def test_skipped_steps_are_counted_and_change_nothing(prepared: Path, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    set_params(prepared / "params.yaml", {"train.batch_size": 64, "train.on_nonfinite": "skip", "train.epochs": 1})
    poison(monkeypatch, 2, term)
    before: list[torch.Tensor] = []
    step = TrainStep.step

    def remembering(self: TrainStep, size: int) -> None:
        step(self, size)
        before.append(torch.cat([t.flatten() for name, t in self.state().items() if name != "record"]))

    monkeypatch.setattr(TrainStep, "step", remembering)
    train.main()
    assert torch.equal(before[2], before[1])
    assert not torch.equal(before[3], before[2])
    train_metrics = last_metrics()["train"]
    assert train_metrics["skipped_steps"] == 1
    assert math.isfinite(train_metrics["elbo"])
    assert all(torch.isfinite(p).all() for p in load_model(DEFAULT.weights, CPU)[0].parameters())


def test_divergence_is_reported_and_writes_no_weights(prepared: Path) -> None:
    set_params(prepared / "params.yaml", {"train.learning_rate": 1e20})
    with pytest.raises(
        UserError, match=r"training diverged: in step 2 .*there is no checkpoint yet; try a lower train.learning"
    ):
        train.main()
    assert not DEFAULT.weights.exists()


def test_infinite_weights_are_a_divergence_and_are_not_saved(prepared: Path) -> None:
    sgd = {"train.optimizer": "sgd", "train.learning_rate": 1e3, "train.on_nonfinite": "skip"}
    set_params(prepared / "params.yaml", {**sgd, "train.batch_size": 64})
    with pytest.raises(
        UserError, match=r"training diverged: (every step of|after) epoch \d.*; try a lower train.learning_rate$"
    ):
        train.main()
    assert not DEFAULT.weights.exists()


def test_an_epoch_with_every_step_skipped_is_a_divergence(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(prepared / "params.yaml", {"train.batch_size": 64, "train.on_nonfinite": "skip"})
    for step in range(5, 10):
        poison(monkeypatch, step, "gradient")
    with pytest.raises(
        UserError, match=r"training diverged: every step of epoch 2 was skipped, .*step-0000000005; try a lower"
    ):
        train.main()
    assert not DEFAULT.weights.exists()


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
@pytest.mark.parametrize(("value", "message"), [(math.nan, "the validation images have nan"), (-math.inf, "some weights were")])
def test_nonfinite_weights_after_the_last_step_are_a_divergence(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, on_nonfinite: str, value: float, message: str
) -> None:
    set_params(prepared / "params.yaml", {"train.on_nonfinite": on_nonfinite})
    finish_epoch = Trainer.finish_epoch

    def ruining(self: Trainer, epoch: int, *args: Any) -> None:
        if epoch == 1:
            # A bias of a hidden unit: minus infinity turns the unit off, which no image shows.
            self.model.encoder[0].bias.data[0] = value  # type: ignore[operator]
        finish_epoch(self, epoch, *args)

    monkeypatch.setattr(Trainer, "finish_epoch", ruining)
    with pytest.raises(UserError, match=rf"training diverged: after epoch 2 {message}.*; the last good checkpoint is .*step-"):
        train.main()
    assert not DEFAULT.weights.exists()


@pytest.mark.parametrize("changes", [{"train.memmap": True}, {"train.checkpoint_every": 2}])
def test_memmap_and_checkpoints_do_not_change_a_bit(prepared: Path, changes: dict[str, object]) -> None:
    results = []
    for more in ({}, changes):
        set_params(prepared / "params.yaml", more)
        train.main()
        weights = load_model(DEFAULT.weights, CPU)[0].state_dict().values()
        results.append(
            (torch.cat([t.flatten() for t in weights]), [p.read_bytes() for p in sorted(DEFAULT.curves.rglob("*.tsv"))])
        )
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_memory_mapped_images_equal_those_in_memory(prepared: Path) -> None:
    images, labels = read_split("train").images, read_split("train").labels
    assert labels is not None
    in_memory, memmap = InMemoryImages(images, CPU, labels), MemmapImages(images, CPU, labels)
    rows = epoch_order(1, 0, len(images))[:50]
    memmap.read_ahead(rows)
    read, held = memmap.take(rows)[0], in_memory.take(rows)[0]
    assert torch.equal(read.pixels, held.pixels)
    assert read.labels is not None
    assert read.labels.tolist() == labels[rows].tolist()
    assert held.labels is not None
    assert torch.equal(read.labels, held.labels)
    memmap.read_ahead(rows[:10])  # then other rows are requested
    assert torch.equal(memmap.take(rows[5:])[1], in_memory.take(rows[5:])[1])
    assert torch.equal(byte_means(images), in_memory.pixels.double().mean(0))


def test_bfloat16_reaches_about_the_same_elbo_and_slow_hardware_is_reported(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elbos = []
    monkeypatch.setattr(trainer, "has_bfloat16", lambda _device: False)
    for precision in ("float32", "bfloat16"):
        set_params(prepared / "params.yaml", {"train.precision": precision})
        train.main()
        assert ("no bfloat16 arithmetic" in capsys.readouterr().out) is (precision == "bfloat16")
        elbos.append(last_metrics()["validation"]["elbo"])
    assert elbos[0] != elbos[1]
    assert elbos[0] == pytest.approx(elbos[1], rel=0.01)


def test_binarized_images_are_black_and_white_and_drawn_anew_in_each_epoch(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(prepared / "params.yaml", {"binarize": True, "train.batch_size": 300})
    seen: list[torch.Tensor] = []
    write_gradient = TrainStep.write_gradient

    def watching(self: TrainStep, examples: Examples, *args: Any) -> Terms:
        seen.append(examples.pixels)
        return write_gradient(self, examples, *args)

    monkeypatch.setattr(TrainStep, "write_gradient", watching)
    train.main()
    whole = torch.from_numpy(read_split("train").images.copy()).flatten(1)
    for epoch, pixels in enumerate(seen):
        assert ((pixels == 0) | (pixels == 255)).all()
        grey = whole[epoch_order(1, epoch, 300)]
        assert (pixels[grey == 0] == 0).all()
        assert (pixels[grey == 255] == 255).all()
        assert pixels.double().mean().item() == pytest.approx(grey.double().mean().item(), rel=0.01)
    order = [epoch_order(1, epoch, 300).argsort() for epoch in (0, 1)]
    assert not torch.equal(seen[0][order[0]], seen[1][order[1]])
