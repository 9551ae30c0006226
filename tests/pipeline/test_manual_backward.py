"""The manual gradient equals autograd's gradient of the objective."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import vae_ext
from pipeline.config.params import Top
from pipeline.data.tensors import as_float
from pipeline.models.kinds import build_model
from pipeline.models.objectives import elbo_terms
from pipeline.models.vae import VAE
from pipeline.training.manual_backward import applies, write_gradient
from pipeline.training.optimizers import flatten_parameters
from tests.plain import plain_params

CPU = torch.device("cpu")


def model_of(**changes: Any) -> tuple[VAE, Tensor]:
    torch.manual_seed(0)
    model = VAE((5, 10), plain_params(**changes).model)
    return model, flatten_parameters(model)[1]


def serves(**changes: Any) -> bool:
    params = plain_params(**changes)
    return applies(build_model((5, 10), params.model, 3), params, params.objective.samples, CPU)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden", [[], [32], [32, 16], [32, 16, 8]])
@pytest.mark.parametrize("logvar_bound", [20.0, 0.3])  # 0.3: some values reach the bound, where the gradient is zero
@pytest.mark.parametrize("beta", [1.0, 0.0, 4.0])
def test_manual_gradient_equals_autograd(hidden: list[int], activation: str, logvar_bound: float, beta: float) -> None:
    changes = {"hidden": hidden, "activation": activation, "logvar_bound": logvar_bound}
    model, gradient = model_of(**changes)
    assert serves(**changes)
    pixels = torch.randint(0, 256, (41, 50), dtype=torch.uint8)
    key = vae_ext.noise_key(1, 2)
    gradient.fill_(torch.nan)
    terms = write_gradient(model, pixels, as_float(pixels), key, beta)

    expected = elbo_terms(model, pixels, key)
    for parameter in model.parameters():
        parameter.grad = None
    expected.loss(beta).backward()
    assert torch.equal(terms.rate, expected.rate)
    assert torch.equal(terms.distortion, expected.distortion)
    autograds = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, autograds, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("parts", [1, 2])
def test_bfloat16_gradient_is_as_accurate_as_autocast(activation: str, parts: int) -> None:
    model, gradient = model_of(hidden=[32, 16], activation=activation)
    assert serves(hidden=[32, 16], activation=activation, precision="bfloat16")
    pixels = torch.randint(0, 256, (41, 50), dtype=torch.uint8)
    key = vae_ext.noise_key(1, 2)
    write_gradient(model, pixels, as_float(pixels), key, 1.0, parts=parts, dtype=torch.bfloat16)
    by_hand = gradient.clone()
    gradient.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = elbo_terms(model, pixels, key).loss(1.0)
    loss.backward()
    by_autocast = gradient.clone()

    exact = copy.deepcopy(model).double()
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(elbo_terms(exact, pixels, key).loss(1.0), list(exact.parameters()))]
    )

    def error(of: Tensor) -> float:
        return float((of - expected).norm() / expected.norm())

    assert 0 < error(by_hand) < 1.2 * error(by_autocast)
    assert error(by_autocast) < 0.02


@pytest.mark.parametrize("beta", [1.0, 0.7])
def test_gradient_of_two_parts_is_the_sum_of_two_half_batches(beta: float) -> None:
    model, gradient = model_of(hidden=[32, 16])
    pixels = torch.randint(0, 256, (41, 50), dtype=torch.uint8)
    key = vae_ext.noise_key(1, 2)
    halves = torch.zeros_like(gradient)
    for row, part in ((0, pixels[:21]), (21, pixels[21:])):
        write_gradient(model, part, as_float(part), key, beta, row_offset=row, batch=41)
        halves += gradient
    write_gradient(model, pixels, as_float(pixels), key, beta, parts=2)
    torch.testing.assert_close(gradient, halves, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"bound": "iwae"},
        {"kl": "monte_carlo"},
        {"warm_up": 1},
        {"free_bits": 0.1},
        {"input_noise": 0.1},
        {"input_dropout": 0.1},
        {"posterior": "deterministic"},
        {"scale": "softplus"},
        {"likelihood": "gaussian"},
        {"likelihood": "categorical"},
        {"conv": [[4, 2]]},
        {"condition": "label"},
        {"prior": "label"},
        {"top": Top(hidden=[8], latent_dim=3)},
    ],
)
def test_unsupported_models_and_objectives_use_autograd(changes: dict[str, Any]) -> None:
    assert serves()
    assert not serves(**changes)


def test_the_reference_backend_uses_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae_ext, "backend", lambda _device: "reference")
    assert not serves()


def test_flat_parameters_share_memory_with_the_model() -> None:
    model, gradient = model_of(hidden=[32])
    flat, _ = flatten_parameters(model)
    assert flat.numel() == gradient.numel() == sum(p.numel() for p in model.parameters())
    flat.fill_(3.0)
    assert all((p == 3).all() for p in model.parameters())
