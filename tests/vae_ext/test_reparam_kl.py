"""The operator and its gradients, compared with float64 and with the reference."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.vae_ext.tensors import COPIES, SHAPES, assert_close, assert_same_bits, call, inputs
from vae_ext import noise_key, reference, reparam_kl, reparam_kl_packed, reparam_log_ratio, standard_normal
from vae_ext.autograd import Output
from vae_ext.dispatch import FLOATS


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("scale", ["exp", "softplus"])
@pytest.mark.parametrize("output", Output)
def test_forward_and_backward_agree_with_float64_autograd(
    device: torch.device, dtype: torch.dtype, samples: int | None, scale: Any, output: Output
) -> None:
    key = noise_key(1, 2, device=device)
    torch.manual_seed(0)
    for rows, dim in SHAPES:
        mu, logvar = inputs(rows, dim, dtype, device)
        z, kl = call(output, mu, logvar, key, num_samples=samples, scale=scale)
        assert z.dtype == dtype
        assert kl.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

        mu64, logvar64 = (t.detach().double().requires_grad_() for t in (mu, logvar))
        z64, kl64 = reference.reparam_kl(mu64, logvar64, key, samples, 0, scale, output)
        assert_close(z, z64, dtype)
        # kl is never rounded to a half type.
        assert_close(kl, kl64, torch.float64 if dtype == torch.float64 else torch.float32)

        grads = (torch.randn_like(z), torch.randn_like(kl))
        actual = torch.autograd.grad((z, kl), (mu, logvar), grads)
        expected = torch.autograd.grad((z64, kl64), (mu64, logvar64), tuple(g.double() for g in grads))
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == dtype
            assert_close(a, e, dtype)


def test_kl_is_never_negative_and_within_1e_5_of_float64(device: torch.device) -> None:
    near_zero = torch.logspace(-8, 0, 2000, dtype=torch.float64)
    logvar = torch.cat([-near_zero, near_zero, torch.zeros(1), torch.linspace(-20, 20, 4001, dtype=torch.float64)])
    mu = torch.cat([torch.zeros(1), torch.logspace(-6, 3, 10, dtype=torch.float64)])
    mu, logvar = (t.float().flatten().to(device) for t in torch.meshgrid(mu, logvar, indexing="ij"))
    _, kl = reparam_kl(mu[:, None], logvar[:, None], noise_key(0, device=device), kl_reduction="none")
    expected = reference.kl_divergence(mu[:, None].double(), logvar[:, None].double())
    assert (kl >= 0).all()
    assert ((kl - expected).abs() <= 1e-5 * expected).all()


def test_gradient_is_finite_where_the_true_gradient_is(device: torch.device) -> None:
    # exp(100) overflows float32; times 1e-20 it is 2.7e23.
    mu, logvar = torch.zeros(1, 1, device=device), torch.full((1, 1), 100.0, device=device).requires_grad_()
    _, kl = reparam_kl(mu, logvar, noise_key(0, device=device))
    (grad,) = torch.autograd.grad(kl, logvar, torch.full((1,), 1e-20, device=device))
    assert grad.item() == pytest.approx(0.5 * 2.6881171418161356e43 * 1e-20, rel=1e-5)


def test_no_factor_of_a_finite_gradient_overflows(device: torch.device) -> None:
    # sigma = exp(95) overflows float32; weighted by 1e-35 it does not.
    key = noise_key(0, device=device)
    mu, logvar = torch.zeros(1, 1, device=device).requires_grad_(), torch.full((1, 1), 190.0, device=device).requires_grad_()
    _, ratio = reparam_log_ratio(mu, logvar, key)
    (grad,) = torch.autograd.grad(ratio, mu, torch.full((1,), 1e-35, device=device))
    eps = standard_normal(key, 1, 1).item()
    assert grad.item() == pytest.approx(-1e-35 * math.exp(95) * eps, rel=1e-5)
    # sigma = rho = 1e25: its square in the KL overflows, and dlogvar/drho = 2 / rho compensates for it.
    rho = torch.full((1, 1), 1e25, device=device).requires_grad_()
    z, kl = reparam_kl(torch.zeros(1, 1, device=device), rho, key, scale="softplus")
    assert torch.autograd.grad(z, rho, torch.full((1, 1), 1e3, device=device), retain_graph=True)[0].item() == pytest.approx(
        1e3 * eps, rel=1e-5
    )
    assert torch.autograd.grad(kl, rho, torch.ones(1, device=device))[0].item() == pytest.approx(1e25, rel=1e-5)


def test_an_infinite_logvar_gives_no_plausible_gradient(device: torch.device) -> None:
    key = noise_key(0, device=device)
    for value, upstream, expected in ((float("inf"), 1e-38, float("inf")), (float("-inf"), 1e38, 0.0)):
        mu, logvar = torch.zeros(1, 1, device=device), torch.full((1, 1), value, device=device).requires_grad_()
        z, _ = reparam_kl(mu, logvar, key)
        (grad,) = torch.autograd.grad(z, logvar, torch.full((1, 1), upstream, device=device))
        assert grad.abs().item() == expected
    mu = torch.full((1, 1), float("inf"), device=device).requires_grad_()
    z, _ = reparam_kl(mu, torch.zeros(1, 1, device=device), key)
    assert torch.autograd.grad(z, mu, torch.ones_like(mu))[0].item() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_inputs_give_nonfinite_results(device: torch.device, value: float) -> None:
    ones = torch.ones(3, 5, device=device)
    bad = ones.clone()
    bad[1, 2] = value
    key = noise_key(0, device=device)
    for mu, logvar in ((bad, ones), (ones, bad)):
        z, kl = reparam_kl(mu, logvar, key)
        assert not kl[1].isfinite()
        # exp(-inf / 2) = 0: only there z equals mu and may be finite.
        assert z[1, 2] == mu[1, 2] if logvar is bad and value == float("-inf") else not z[1, 2].isfinite()
        assert kl[[0, 2]].isfinite().all()


def test_same_bits_on_every_instruction_set_thread_count_and_row_split(each_cpu: Callable[[], Iterator[str]]) -> None:
    key, backward = noise_key(8), torch.ops.vae_ext.reparam_kl_backward
    for rows, dim in [(1000, 20), (70, 333), (9, 3000)]:
        mu, logvar = (t.detach() for t in inputs(rows, dim, torch.float32, torch.device("cpu")))
        mu[: rows // 2] *= 1000  # so that some noise is generated again, and other noise is read off z
        grad_z, grad_kl = torch.randn(rows, dim), torch.randn(rows)
        results = []
        for _ in each_cpu():
            forward = torch.ops.vae_ext.reparam_kl(mu, logvar, key)
            results.append([*forward, *(g for z in (None, forward[0]) for g in backward(grad_z, grad_kl, mu, logvar, key, z))])
        half = rows // 2
        parts = [reparam_kl(mu[part], logvar[part], key, row_offset=part.start) for part in (slice(0, half), slice(half, rows))]
        for result in results:
            assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
        for whole, split in zip(results[0][:2], zip(*parts, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(split))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [None, 3])
def test_noise_read_off_z_is_within_the_documented_error(dtype: torch.dtype, samples: int | None) -> None:
    # sigma from 1e-4 to 1e4, |mu| / sigma from 1e-3 to 1e5. The exact values: eps, and its product with float64's sigma.
    torch.manual_seed(5)
    key, rows, dim = noise_key(7), 400, 300
    logvar = 2 * math.log(10) * (8 * torch.rand(rows, dim, dtype=torch.float64) - 4).to(dtype)
    ratio = 10 ** (8 * torch.rand(rows, dim, dtype=torch.float64) - 3)
    sigma = torch.exp(logvar.double() / 2)
    mu = (ratio * sigma * torch.randn(rows, dim).sign()).to(dtype)
    eps = standard_normal(key, rows, dim, num_samples=samples).double()
    z, _ = reparam_kl(mu, logvar, key, num_samples=samples)
    grad_z = torch.randn_like(z)
    by_noise, by_z = (
        torch.ops.vae_ext.reparam_kl_backward(grad_z, None, mu, logvar, key, t, num_samples=samples) for t in (None, z)
    )

    far = mu.double().abs() > 64.01 * sigma
    assert 0.1 < far.double().mean() < 0.9
    assert_same_bits(by_z[0], by_noise[0])
    assert_same_bits(by_z[1][far], by_noise[1][far])
    assert not torch.equal(by_z[1][~far], by_noise[1][~far])

    unit = torch.finfo(dtype).eps / 2
    each = 0.5 * grad_z.double() * sigma * eps
    bound = unit * (64.01 + 3 * eps.abs()) * sigma * 0.5 * grad_z.double().abs() + 8 * unit * each.abs()
    exact = each if samples is None else each.sum(0)
    bound = bound if samples is None else bound.sum(0)
    assert ((by_z[1].double() - exact).abs() <= bound)[~far].all()


def test_gradients_with_noise_read_off_z_stay_finite_and_accurate() -> None:
    key, backward = noise_key(3), torch.ops.vae_ext.reparam_kl_backward
    eps = standard_normal(key, 1, 1, num_samples=3)
    for logvar, terms in (
        (2 * 99 * math.log(2), [1.9e38, 1.9e38, -1.9e38]),  # the sum is finite, but that of the first two is not
        (177.0, [1e3, 2e3, 3e3]),  # sigma = 2.7e38, and z may be infinite
        (-150.0, [1e-36, -2e-36, 5e-36]),  # z is near the smallest normal number
    ):
        mu, given = torch.zeros(1, 1), torch.full((1, 1), logvar)
        grad_z = (torch.tensor(terms, dtype=torch.float64).view(3, 1, 1) / math.exp(logvar / 2) / eps).float()
        z, _ = reparam_kl(mu, given, key, num_samples=3)
        _, grad = backward(grad_z, None, mu, given, key, z, num_samples=3)
        assert grad.item() == pytest.approx(0.5 * sum(terms), rel=1e-5)
        assert_same_bits(grad, backward(grad_z, None, mu, given, key, num_samples=3)[1])


def test_overwriting_z_before_the_backward_pass_is_an_error() -> None:
    mu = torch.zeros(2, 3, requires_grad=True)
    z, kl = reparam_kl(mu, torch.zeros(2, 3), noise_key(0))
    z.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (z.sum() + kl.sum()).backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("scale", ["exp", "softplus"])
@pytest.mark.parametrize("output", Output)
def test_gpu_gives_the_same_bits_as_the_cpu(dtype: torch.dtype, samples: int | None, scale: Any, output: Output) -> None:
    key = noise_key(4)
    for rows, dim in SHAPES:
        results = []
        for device in map(torch.device, ("cpu", "cuda")):
            mu, logvar = inputs(rows, dim, dtype, device)
            outputs = call(output, mu, logvar, key.to(device), num_samples=samples, scale=scale)
            torch.manual_seed(0)
            upstream = [torch.randn(t.shape).to(t) for t in outputs]
            # Without z, which only the CPU reads.
            options = {"num_samples": samples, "scale": scale, "output": output.value}
            grads = torch.ops.vae_ext.reparam_kl_backward(*upstream, mu.detach(), logvar.detach(), key.to(device), **options)
            results.append([t.detach().cpu() for t in (*outputs, *grads)])
        assert_same_bits(*results)


def test_halves_of_a_packed_output_are_not_copied(device: torch.device) -> None:
    packed = torch.randn(64, 40, device=device)
    mu, logvar = packed.chunk(2, dim=-1)
    key = noise_key(2, device=device)
    with torch.profiler.profile() as profile:
        reparam_kl(mu, logvar, key)
    names = {event.key for event in profile.key_averages()}
    assert "vae_ext::reparam_kl" in names
    assert not names & COPIES


def test_packed_form_copies_and_concatenates_nothing() -> None:
    packed = torch.randn(64, 40, requires_grad=True)
    with torch.profiler.profile() as profile:
        z, kl = reparam_kl_packed(packed, noise_key(0))
        torch.autograd.backward([z, kl], [torch.ones(64, 20), torch.ones(64)])
    names = {event.key for event in profile.key_averages()}
    assert "vae_ext::reparam_kl_packed_backward" in names
    assert not names & COPIES


def test_log_ratio_averages_to_minus_kl(device: torch.device) -> None:
    mu, logvar = (t.detach() for t in inputs(4, 6, torch.float64, device))
    _, ratio = reparam_log_ratio(mu, logvar, noise_key(1, device=device), num_samples=20_000)
    _, kl = reparam_kl(mu, logvar)
    standard_error = ratio.std(dim=0) / 20_000**0.5
    assert ((ratio.mean(dim=0) + kl).abs() < 5 * standard_error).all()


def test_softplus_scale_is_accurate_over_its_whole_range(device: torch.device) -> None:
    rho = torch.cat([torch.linspace(-80, 80, 1601), torch.tensor([-1e4, 1e4, -1e-6, 0.0, 1e-6])]).to(device)[:, None]
    key = noise_key(6, device=device)
    z, kl = reparam_kl(torch.zeros_like(rho), rho, key, scale="softplus")
    eps = standard_normal(key, len(rho), 1).double()
    sigma = torch.nn.functional.softplus(rho.double(), threshold=1000)
    torch.testing.assert_close(z.double(), sigma * eps, rtol=3e-6, atol=1e-30)
    assert (kl >= 0).all()
    for value in (float("nan"), float("inf")):
        z, kl = reparam_kl(torch.zeros_like(rho[:1]), torch.full_like(rho[:1], value), key, scale="softplus")
        assert not z.isfinite().any()
        assert not kl.isfinite().any()


@pytest.mark.parametrize("shape", [(0, 20), (5, 0), (0, 0), (2, 0, 3)])
def test_empty_batches_give_empty_results(device: torch.device, shape: tuple[int, ...]) -> None:
    mu = torch.zeros(shape, device=device, requires_grad=True)
    z, kl = reparam_kl(mu, torch.zeros(shape, device=device), noise_key(0, device=device))
    assert z.shape == shape
    assert torch.equal(kl, torch.zeros(shape[:-1], device=device))
    (z.sum() + kl.sum()).backward()
    assert mu.grad is not None
    assert mu.grad.shape == shape


ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mu": [1.0]}, TypeError, "mu: expected a Tensor, got list"),
    (
        {"mu": torch.zeros(2, 3, dtype=torch.int64)},
        TypeError,
        "mu: expected float32, float64, bfloat16 or float16, got torch.int64",
    ),
    ({"mu": torch.tensor(1.0)}, ValueError, "mu: expected at least one dimension, [..., D], got a scalar"),
    ({"logvar": torch.zeros(2, 3).double()}, TypeError, "logvar: expected the dtype of mu, torch.float32, got torch.float64"),
    ({"logvar": torch.zeros(2, 4)}, ValueError, "logvar: expected the shape of mu, [2, 3], got [2, 4]"),
    ({"mu": torch.zeros(2, 3, device="meta")}, ValueError, "mu: expected the device of key, cpu, got meta"),
    ({"logvar": torch.zeros(2, 3, device="meta")}, ValueError, "logvar: expected the device of mu, cpu, got meta"),
    ({"key": 3}, TypeError, "key: expected a Tensor, as noise_key() gives, got int"),
    ({"key": torch.zeros(2)}, TypeError, "key: expected int64, as noise_key() gives, got torch.float32"),
    ({"key": torch.zeros(3, dtype=torch.int64)}, ValueError, "key: expected [2], seed and step, got [3]"),
    ({"key": noise_key(0, device="meta")}, ValueError, "key: expected the device of mu, cpu, got meta"),
    ({"num_samples": 0}, ValueError, "num_samples: expected 1 to 4294967296, got 0"),
    ({"num_samples": 2.0}, TypeError, "num_samples: expected a whole number, got 2.0"),
    ({"num_samples": "2"}, TypeError, "num_samples: expected a whole number, got '2'"),
    ({"row_offset": -1}, ValueError, "row_offset: expected 0 to 4294967295, got -1"),
    ({"row_offset": None}, TypeError, "row_offset: expected a whole number, got None"),
    ({"row_offset": 2**32 - 1}, ValueError, "row_offset: expected 0 to 2**32 - 2 for 2 rows, got 4294967295"),
    ({"scale": "tanh"}, ValueError, 'scale: expected "exp" or "softplus", got \'tanh\''),
    ({"kl_reduction": "mean"}, ValueError, 'kl_reduction: expected "sum" or "none", got \'mean\''),
]


@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
def test_bad_input_is_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"mu": torch.zeros(2, 3), "logvar": torch.zeros(2, 3), "key": noise_key(0)} | wrong
    with pytest.raises(error, match=re.escape(message)):
        reparam_kl(**arguments)


def test_z_follows_the_textbook_formula(device: torch.device) -> None:
    mu, logvar = (t.detach() for t in inputs(128, 20, torch.float32, device))
    key = noise_key(9, device=device)
    z, _ = reparam_kl(mu, logvar, key)
    torch.testing.assert_close(z, mu + torch.exp(logvar / 2) * standard_normal(key, 128, 20))
