"""`pipeline.load`: encodes images in every form, decodes codes, and scores images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline
from pipeline.config.paths import DEFAULT
from pipeline.data.prepared import read_split
from pipeline.studies.runs import find_runs
from tests.pipeline.trained.program import vae


def test_the_same_seed_gives_the_same_samples_and_more_start_with_fewer(plain: Path) -> None:
    model = pipeline.load("models/default")
    assert torch.equal(model.sample(9, seed=1), model.sample(9, seed=1))
    torch.testing.assert_close(model.sample(600, seed=1)[:9], model.sample(9, seed=1))
    assert not torch.equal(model.sample(9, seed=1), model.sample(9, seed=2))


def test_bytes_floats_flat_and_shaped_images_are_equivalent_and_others_are_rejected(plain: Path) -> None:
    model = pipeline.load(DEFAULT.weights)
    images = np.array(read_split("test").images[:5])
    expected = model.encode(images)[0]
    for same in (torch.from_numpy(images), images.reshape(5, -1), images / 255, torch.from_numpy(images / 255).float()):
        assert torch.equal(model.encode(same)[0], expected)
    for wrong in (images[:, 1:], images.astype(np.int64), images / 128, np.full((1, 28, 28), np.nan)):
        with pytest.raises(ValueError, match="expected"):
            model.encode(wrong)
    with pytest.raises(ValueError, match=r"expected z \[N, 4\], got \[2, 3\]"):
        model.decode(torch.zeros(2, 3))
    bound, tighter = (model.log_prob(images, samples).mean() for samples in (1, 200))
    assert bound < tighter < 0


def test_images_in_every_layout_and_byte_order_are_equivalent(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plain", "colours"):
        monkeypatch.chdir(trained / name)
        model = pipeline.load("models/default")
        images = np.array(read_split("test").images[:5])
        expected = model.encode(images)[0]
        first = images if name == "colours" else images[:, None]
        last = np.moveaxis(first, 1, -1)
        same: dict[str, Any] = {
            "colours first": first,
            "colours last": last,
            "flat": images.reshape(5, -1),
            "big-endian": (images / 255).astype(">f4"),
            "big-endian, 64 bits": (images / 255).astype(">f8"),
            "a rounding above 1": (images / 255 * (1 + 1e-7)).astype(np.float32),
            "negative strides": images[::-1].copy()[::-1],
            "Fortran order": np.asfortranarray(images),
            "not contiguous": torch.from_numpy(np.ascontiguousarray(last)).movedim(-1, 1),
            "with a gradient": torch.from_numpy(images / 255).requires_grad_(),
        }
        for layout, array in same.items():
            assert torch.equal(model.encode(array)[0], expected), layout
        alone = {"shaped": images[2], "colours first": first[2], "colours last": last[2], "flat": images[2].reshape(-1)}
        for layout, array in alone.items():
            assert torch.allclose(model.encode(array)[0], expected[2:3], atol=1e-6), layout


def test_unscaled_images_are_reported(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = (np.array(read_split("test").images[:2]) > 99).astype(np.uint8)  # 0 and 1, not 0 and 255
    np.save("masks.npy", masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae("encode masks.npy -o codes.csv")
    assert "note: no pixel is above 1, and white is 255: are these images scaled?\n" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="no pixel is above 1, and white is 255"):
        pipeline.load("models/default").encode(masks)


def test_a_models_samples_can_be_encoded(kind: str) -> None:
    model = pipeline.load("models/default")
    images, label = model.sample(64, seed=1), "7" if kind == "conditional" else None
    mu, _ = model.encode(images, label=label)
    model.encode(model.decode(100 * mu, label), label=label)  # a Gaussian's mean is outside [0, 1]


def test_an_autoencoder_has_no_log_prob(trained: Path) -> None:
    with pytest.raises(ValueError, match="an autoencoder has no p"):
        pipeline.load(trained / "autoencoder/models/default").log_prob(np.zeros((1, 28, 28), np.uint8))


def test_a_model_folder_is_compared_by_its_card(plain: Path) -> None:
    (found,) = find_runs(["models/default"])
    (whole,) = find_runs(["workspace"])
    assert found.value("nll") == pytest.approx(whole.value("nll"), rel=1e-5)
    assert found.params["model.latent_dim"] == 4
    assert found.weights == DEFAULT.weights
