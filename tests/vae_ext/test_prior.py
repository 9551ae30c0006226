"""The operator with a Gaussian prior, compared with torch.distributions and the float64 reference."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.vae_ext.tensors import COPIES, assert_close, assert_same_bits, call
from vae_ext import noise_key, reference, reparam_kl, reparam_log_ratio, standard_normal
from vae_ext.autograd import Output
from vae_ext.dispatch import FLOATS

# Rows of the prior's mean and logvar: None is one for all.
PRIORS = [("mu", "mu"), (None, None), ("mu", None), (None, "mu")]


def gaussians(rows: int, dim: int, dtype: torch.dtype, device: torch.device, prior: Any = ("mu", "mu")) -> list[Tensor]:
    """Returns mu, logvar, prior_mu and prior_logvar."""
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
def test_values_and_gradients_match_torch_distributions(
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


def test_kl_of_nearly_equal_gaussians_is_never_negative_and_within_1e_5(device: torch.device) -> None:
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


def test_kl_is_never_negative_and_within_1e_5_over_the_whole_range(device: torch.device) -> None:
    generator, n = torch.Generator().manual_seed(1), 200_000

    def uniform(least: float, most: float) -> Tensor:
        return least + (most - least) * torch.rand(n, generator=generator, dtype=torch.float64)

    def signed(exponent: Tensor) -> Tensor:
        return torch.where(uniform(-1, 1) < 0, -1.0, 1.0) * 10**exponent

    prior_mu, prior_logvar = signed(uniform(-6, 3)), uniform(-20, 20)
    mu = torch.where(uniform(0, 1) < 0.5, prior_mu + signed(uniform(-6, 1)), signed(uniform(-6, 3)))
    logvar = torch.where(uniform(0, 1) < 0.5, prior_logvar + signed(uniform(-6, 1)), uniform(-20, 20)).clamp(-20, 20)
    mu, logvar, prior_mu, prior_logvar = (t.float()[:, None].to(device) for t in (mu, logvar, prior_mu, prior_logvar))
    _, kl = reparam_kl(mu, logvar, noise_key(0, device=device), prior_mu=prior_mu, prior_logvar=prior_logvar)
    wide = (mu.double(), logvar.double(), prior_mu.double(), prior_logvar.double())
    expected = reference.kl_divergence(*reference.whiten(*wide))[:, 0]
    assert (kl >= 0).all()
    assert ((kl - expected).abs() <= 1e-5 * expected).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", ["exp", "softplus"])
def test_z_has_the_same_bits_as_without_a_prior(device: torch.device, dtype: torch.dtype, scale: Any) -> None:
    tensors, key = gaussians(41, 33, dtype, device), noise_key(5, device=device)
    without, _ = reparam_kl(tensors[0], tensors[1], key, num_samples=2, scale=scale)
    for output in Output:
        assert_same_bits(call_with(output, tensors, key, num_samples=2, scale=scale)[0], without)


def test_same_bits_on_every_instruction_set_thread_count_and_row_split(each_cpu: Callable[[], Iterator[str]]) -> None:
    key, ops = noise_key(8), torch.ops.vae_ext
    for prior, (rows, dim) in zip(PRIORS, [(70, 333), (1000, 20), (9, 3000), (5000, 3)], strict=True):
        tensors = [t.detach() for t in gaussians(rows, dim, torch.float32, torch.device("cpu"), prior)]
        tensors[0][: rows // 2] *= 1000  # so that some noise is generated again, and other noise is read off z
        results = []
        for _ in each_cpu():
            for output in Output:
                z, out = forward = ops.reparam_kl_prior(*tensors, key, output=output)
                for given in (None, z):
                    results.append((*forward, *ops.reparam_kl_prior_backward(z, out, *tensors, key, given, output=output)))
        each = 2 * len(Output)
        for i, result in enumerate(results):
            assert_same_bits(result, results[i % each])


def test_the_gradient_of_a_shared_prior_is_summed_in_chunks(device: torch.device) -> None:
    """Compares the order of kernels.h with the gradients per row of an expanded prior."""
    mu, logvar, prior_mu, prior_logvar = gaussians(64 * 64 + 70, 5, torch.float32, device, (None, None))
    key, upstream = noise_key(1, device=device), torch.randn(len(mu), device=device)
    _, kl = reparam_kl(mu, logvar, key, prior_mu=prior_mu, prior_logvar=prior_logvar)
    summed = torch.autograd.grad(kl, (prior_mu, prior_logvar), upstream)
    rows = [t.detach().expand_as(mu).requires_grad_() for t in (prior_mu, prior_logvar)]
    _, kl = reparam_kl(mu, logvar, key, prior_mu=rows[0], prior_logvar=rows[1])
    for grad, terms in zip(summed, torch.autograd.grad(kl, rows, upstream), strict=True):
        while len(terms) > 1:
            chunks = [functools.reduce(torch.add, chunk, torch.zeros_like(chunk[0])) for chunk in terms.split(64)]
            terms = torch.stack(chunks)
        assert_same_bits(grad, terms[0])


def test_no_factor_of_a_finite_gradient_overflows(device: torch.device) -> None:
    def grads(tensors: list[float], upstream: float) -> list[float]:
        leaves = [torch.full((1, 1), t, device=device).requires_grad_() for t in tensors]
        _, kl = call_with(Output.KL_SUM, leaves, noise_key(0, device=device))
        return [g.item() for g in torch.autograd.grad(kl, leaves, torch.full((1,), upstream, device=device))]

    # exp(100) overflows float32, as the posterior's variance or the prior's inverse variance; times 1e-20 it is 2.7e23.
    big = 0.5 * 2.6881171418161356e43 * 1e-20
    assert grads([0.0, 100.0, 0.0, 0.0], 1e-20) == pytest.approx([0, big, 0, -big], rel=1e-5)
    assert grads([0.0, 0.0, 0.0, -100.0], 1e-20) == pytest.approx([0, big, 0, -big], rel=1e-5)
    # d = (mu - prior_mu) exp(50) = 5e36, whose square overflows.
    wanted = [1e-20 * 1e15 * 2.6881171418161356e43, 0.5 * 1e-20 * 2.6881171418161356e43]
    found = grads([1e15, 0.0, 0.0, -100.0], 1e-30)
    assert found[0] == pytest.approx(wanted[0] * 1e-10, rel=1e-5)
    assert found[2] == pytest.approx(-wanted[0] * 1e-10, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_nonfinite_inputs_give_nonfinite_results(device: torch.device, value: float, place: int) -> None:
    for output in (Output.KL_SUM, Output.LOG_RATIO):
        tensors = [torch.full((3, 5), 0.5 + i, device=device) for i in range(4)]
        tensors[place][1, 2] = value
        _, out = call_with(output, tensors, noise_key(0, device=device))
        assert not out[1].isfinite()
        assert out[[0, 2]].isfinite().all()


def test_an_infinite_mu_keeps_gradients_of_z_alone_finite(device: torch.device) -> None:
    tensors = [torch.full((1, 1), value, device=device).requires_grad_() for value in (float("inf"), 0.0, 1.0, 1.0)]
    z, _ = call_with(Output.KL_SUM, tensors, noise_key(0, device=device))
    grads = torch.autograd.grad(z, tensors, torch.ones_like(z))
    assert grads[0].item() == 1
    assert all(grad.isfinite() for grad in grads)


def test_a_standard_normal_prior_equals_the_default(device: torch.device) -> None:
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
def test_any_number_of_leading_dimensions_is_supported(device: torch.device, shape: tuple[int, ...], shared: bool) -> None:
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
def test_first_and_second_derivatives_with_a_prior_match_finite_differences(
    device: torch.device, output: Output, prior: Any
) -> None:
    tensors = gaussians(3, 5, torch.float64, device, prior)

    def f(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return call_with(output, list(tensors), noise_key(3, device=device), num_samples=2)

    assert torch.autograd.gradcheck(f, tensors)
    assert torch.autograd.gradgradcheck(f, tensors)


def test_vmap_over_priors_matches_a_loop(device: torch.device) -> None:
    mu, logvar, prior_mu, prior_logvar = (t.detach() for t in gaussians(4, 5, torch.float32, device))

    def kl_of(prior_mu: Tensor, prior_logvar: Tensor) -> tuple[Tensor, Tensor]:
        return reparam_kl(mu, logvar, noise_key(0, device=device), prior_mu=prior_mu, prior_logvar=prior_logvar)

    _, kl = torch.func.vmap(kl_of)(prior_mu, prior_logvar)
    each = [kl_of(*prior)[1] for prior in zip(prior_mu, prior_logvar, strict=True)]
    torch.testing.assert_close(kl, torch.stack(each))


@pytest.mark.parametrize("dtype", FLOATS)
def test_raw_operators_pass_opcheck(module: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    key, ops = noise_key(1, device=device), torch.ops.vae_ext
    options: list[dict[str, Any]] = [{"row_offset": 3}, {"num_samples": 2, "scale": "softplus", "output": "log_ratio"}]
    for prior, chosen in zip([PRIORS[0], PRIORS[3]], options, strict=True):
        tensors = gaussians(6, 10, dtype, device, prior)
        torch.library.opcheck(ops.reparam_kl_prior, (*tensors, key), chosen)
        given = [t.detach() for t in tensors]
        outputs = ops.reparam_kl_prior(*given, key, **chosen)
        torch.library.opcheck(ops.reparam_kl_prior_backward, (*outputs, *given, key), chosen)


def test_operators_with_a_prior_compile_without_a_graph_break_and_export_for_every_batch_size(device: torch.device) -> None:
    class WithLearnedPrior(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prior = torch.nn.Parameter(torch.randn(2, 33, device=device))

        def forward(self, mu: Tensor, logvar: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            return reparam_kl(mu, logvar, key, prior_mu=self.prior[0], prior_logvar=self.prior[1])

    model, key, batch = WithLearnedPrior(), noise_key(1, device=device), torch.export.Dim("batch")
    small, large = (torch.randn(2, rows, 33, device=device) for rows in (6, 41))
    expected = model(*large, key)
    expected_grad = torch.autograd.grad([t.sum() for t in expected], model.prior)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(*large, key)
    assert_same_bits(compiled, expected)
    assert_same_bits(torch.autograd.grad([t.sum() for t in compiled], model.prior), expected_grad)
    shapes = {"mu": {0: batch}, "logvar": {0: batch}, "key": None}
    exported = torch.export.export(model, (*small, key), dynamic_shapes=shapes).module()
    assert_same_bits(exported(*large, key), expected)


def test_outputs_of_encoder_and_prior_networks_are_not_copied() -> None:
    posterior, prior = torch.randn(2, 64, 40)
    mu, logvar = posterior.chunk(2, dim=-1)
    with torch.profiler.profile() as profile:
        reparam_kl(mu, logvar, noise_key(2), prior_mu=prior[:, :20], prior_logvar=prior[:, 20:])
    names = {event.key for event in profile.key_averages()}
    assert "vae_ext::reparam_kl_prior" in names
    assert not names & COPIES


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
def test_an_invalid_prior_is_named(operator: Any, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    prior = {"prior_mu": torch.zeros(3), "prior_logvar": torch.zeros(3)} | wrong
    with pytest.raises(error, match=re.escape(message)):
        operator(torch.zeros(2, 3), torch.zeros(2, 3), noise_key(0), **prior)
