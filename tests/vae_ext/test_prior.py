"""The operator with a Gaussian prior, against torch.distributions and the reference in float64."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.vae_ext.tensors import assert_close, call
from vae_ext import noise_key, reference, reparam_kl, reparam_log_ratio, standard_normal
from vae_ext.autograd import Output
from vae_ext.dispatch import FLOATS

# Rows of the prior's mean and logvar: None, one for all.
PRIORS = [("mu", "mu"), (None, None), ("mu", None), (None, "mu")]


def gaussians(rows: int, dim: int, dtype: torch.dtype, device: torch.device, prior: Any = ("mu", "mu")) -> list[Tensor]:
    """mu, logvar, prior_mu and prior_logvar."""
    generator = torch.Generator().manual_seed(rows * 10_007 + dim)
    values = torch.randn(4, rows, dim, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
    shared = [t if of is not None or rows == 0 else t[0] for t, of in zip(values[2:], prior, strict=True)]
    return [t.clone().requires_grad_() for t in (*values[:2], *shared)]


def call_with(output: Output, tensors: list[Tensor], key: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    mu, logvar, prior_mu, prior_logvar = tensors
    return call(output, mu, logvar, key, prior_mu=prior_mu, prior_logvar=prior_logvar, **options)


def by_distributions(output: Output, tensors: list[Tensor], eps: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    mu, logvar, prior_mu, prior_logvar = tensors
    sigma = torch.nn.functional.softplus(logvar) if scale == "softplus" else torch.exp(logvar / 2)
    posterior, prior = Normal(mu, sigma), Normal(prior_mu, torch.exp(prior_logvar / 2).expand_as(mu))
    z = mu + sigma * eps
    if output == Output.LOG_RATIO:
        return z, (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
    kl = kl_divergence(posterior, prior)
    return z, kl.sum(-1) if output == Output.KL_SUM else kl


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("scale", ["exp", "softplus"])
@pytest.mark.parametrize("output", Output)
def test_values_and_gradients_are_those_of_torch_distributions(
    device: torch.device, dtype: torch.dtype, samples: int | None, scale: Any, output: Output
) -> None:
    key = noise_key(1, 2, device=device)
    torch.manual_seed(0)
    for prior, (rows, dim) in zip(PRIORS, [(128, 20), (200, 33), (7, 401), (3, 1271)], strict=True):
        tensors = gaussians(rows, dim, dtype, device, prior)
        actual = call_with(output, tensors, key, num_samples=samples, scale=scale)
        wide = [t.detach().double().requires_grad_() for t in tensors]
        eps = standard_normal(key, rows, dim, num_samples=samples).double()
        expected = by_distributions(output, wide, eps, scale)
        assert_close(actual[0], expected[0], dtype)
        assert actual[1].dtype == torch.promote_types(dtype, torch.float32)
        assert_close(actual[1], expected[1], actual[1].dtype)

        upstream = [torch.randn_like(t) for t in actual]
        grads = torch.autograd.grad(actual, tensors, upstream)
        right = torch.autograd.grad(expected, wide, [u.double() for u in upstream])
        for tensor, grad, wanted in zip(tensors, grads, right, strict=True):
            assert grad.dtype == dtype
            assert grad.shape == tensor.shape
            assert_close(grad, wanted, dtype)


def test_kl_of_two_that_nearly_coincide_is_never_negative_and_within_1e_5(device: torch.device) -> None:
    near_zero = torch.logspace(-7, 0, 300, dtype=torch.float64)
    apart = torch.cat([-near_zero, near_zero, torch.zeros(1)])
    prior_mu, prior_logvar, moved, wider = (
        t.flatten()[:, None].to(device)
        for t in torch.meshgrid(
            torch.tensor([-1000.0, 0.0, 0.3]),
            torch.tensor([-15.0, 0.0, 0.7, 15.0]),
            apart[::20].float(),
            apart.float(),
            indexing="ij",
        )
    )
    mu, logvar = prior_mu + moved * torch.exp(prior_logvar / 2), prior_logvar + wider
    _, kl = reparam_kl(mu, logvar, noise_key(0, device=device), prior_mu=prior_mu, prior_logvar=prior_logvar)
    mu, logvar, prior_mu, prior_logvar = (t.double() for t in (mu, logvar, prior_mu, prior_logvar))
    expected = reference.kl_divergence(*reference.whiten(mu, logvar, prior_mu, prior_logvar))[:, 0]
    assert (kl >= 0).all()
    assert ((kl - expected).abs() <= 1e-5 * expected).all()
    _, kl = reparam_kl(mu, logvar, noise_key(0, device=device), prior_mu=mu, prior_logvar=logvar)
    assert (kl == 0).all()


def test_a_standard_normal_prior_is_none(device: torch.device) -> None:
    mu, logvar, _, _ = gaussians(41, 33, torch.float64, device)
    zero, key = torch.zeros(33, dtype=torch.float64, device=device), noise_key(3, device=device)
    for operator in (reparam_kl, reparam_log_ratio):
        with_prior = operator(mu, logvar, key, prior_mu=zero, prior_logvar=zero)
        torch.testing.assert_close(with_prior, operator(mu, logvar, key), rtol=1e-14, atol=1e-14)


def test_log_ratio_averages_to_minus_kl(device: torch.device) -> None:
    tensors = [t.detach() for t in gaussians(4, 6, torch.float64, device)]
    key = noise_key(1, device=device)
    _, ratio = call_with(Output.LOG_RATIO, tensors, key, num_samples=20_000)
    _, kl = call_with(Output.KL_SUM, tensors, key)
    standard_error = ratio.std(dim=0) / math.sqrt(20_000)
    assert ((ratio.mean(dim=0) + kl).abs() < 5 * standard_error).all()


@pytest.mark.parametrize("shape", [(0, 20), (5, 0), (2, 0, 3), (3,), (2, 3, 4)])
@pytest.mark.parametrize("shared", [False, True])
def test_any_number_of_leading_dimensions(device: torch.device, shape: tuple[int, ...], shared: bool) -> None:
    mu, logvar = torch.randn(2, *shape, device=device)
    prior = torch.randn(2, *(shape[-1:] if shared else shape), device=device, requires_grad=True)
    for output in Output:
        z, out = call_with(output, [mu, logvar, *prior], noise_key(0, device=device))
        assert z.shape == shape
        assert out.shape == (shape if output == Output.KL else shape[:-1])
        (grad,) = torch.autograd.grad(out.sum(), prior)
        assert grad.shape == prior.shape
        assert grad.count_nonzero() == (grad.numel() if mu.numel() else 0)


@pytest.mark.parametrize("output", Output)
@pytest.mark.parametrize("prior", [PRIORS[1], PRIORS[2]])
def test_first_and_second_derivatives_are_those_of_finite_differences(device: torch.device, output: Output, prior: Any) -> None:
    tensors = gaussians(3, 5, torch.float64, device, prior)

    def f(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return call_with(output, list(tensors), noise_key(3, device=device), num_samples=2)

    assert torch.autograd.gradcheck(f, tensors)
    assert torch.autograd.gradgradcheck(f, tensors)


def test_vmap_over_priors_gives_what_a_loop_gives(device: torch.device) -> None:
    mu, logvar, prior_mu, prior_logvar = (t.detach() for t in gaussians(4, 5, torch.float32, device))

    def kl_of(prior_mu: Tensor, prior_logvar: Tensor) -> tuple[Tensor, Tensor]:
        return reparam_kl(mu, logvar, noise_key(0, device=device), prior_mu=prior_mu, prior_logvar=prior_logvar)

    _, kl = torch.func.vmap(kl_of)(prior_mu, prior_logvar)
    each = [kl_of(*prior)[1] for prior in zip(prior_mu, prior_logvar, strict=True)]
    torch.testing.assert_close(kl, torch.stack(each))


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prior_logvar": None}, ValueError, "prior_logvar: expected a Tensor, as prior_mu is given, got None"),
    ({"prior_mu": None}, ValueError, "prior_mu: expected a Tensor, as prior_logvar is given, got None"),
    ({"prior_mu": 0.0}, TypeError, "prior_mu: expected a Tensor, got float"),
    (
        {"prior_logvar": torch.zeros(3).double()},
        TypeError,
        "prior_logvar: expected the dtype of mu, torch.float32, got torch.float64",
    ),
    ({"prior_mu": torch.zeros(2)}, ValueError, "prior_mu: expected [3], or the shape of mu, [2, 3], got [2]"),
    ({"prior_mu": torch.zeros(1, 3)}, ValueError, "prior_mu: expected [3], or the shape of mu, [2, 3], got [1, 3]"),
    ({"prior_logvar": torch.zeros(3, device="meta")}, ValueError, "prior_logvar: expected the device of mu, cpu, got meta"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
@pytest.mark.parametrize("operator", [reparam_kl, reparam_log_ratio])
def test_a_prior_that_does_not_fit_is_named(operator: Any, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    prior = {"prior_mu": torch.zeros(3), "prior_logvar": torch.zeros(3)} | wrong
    with pytest.raises(error, match=re.escape(message)):
        operator(torch.zeros(2, 3), torch.zeros(2, 3), noise_key(0), **prior)
