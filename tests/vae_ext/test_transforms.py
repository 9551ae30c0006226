"""The operator among PyTorch's tools: derivatives of derivatives, torch.func, autocast, export and compile."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vae_ext.tensors import call, inputs
from vae_ext import noise_key, reparam_kl, reparam_kl_packed, standard_normal
from vae_ext.autograd import Output
from vae_ext.dispatch import FLOATS


def test_vmap_and_func_grad_give_what_a_loop_gives(device: torch.device) -> None:
    mu, logvar = torch.randn(2, 3, 4, 5, device=device)
    key = noise_key(0, device=device)

    def loss(m: Tensor, s: Tensor) -> Tensor:
        z, kl = reparam_kl(m, s, key)
        return z.square().sum() + kl.sum()

    losses = torch.func.vmap(loss)(mu, logvar)
    grads = torch.func.vmap(torch.func.grad(loss))(mu, logvar)
    for i in range(3):
        torch.testing.assert_close(losses[i], loss(mu[i], logvar[i]))
        torch.testing.assert_close(grads[i], torch.func.grad(loss)(mu[i], logvar[i]))


def test_forward_mode_derivatives_are_those_of_the_reference(device: torch.device) -> None:
    mu, logvar, mu_tangent, logvar_tangent = torch.randn(4, 3, 5, device=device)
    key = noise_key(0, device=device)
    with torch.autograd.forward_ad.dual_level():
        dual_mu = torch.autograd.forward_ad.make_dual(mu, mu_tangent)
        dual_logvar = torch.autograd.forward_ad.make_dual(logvar, logvar_tangent)
        z, kl = (torch.autograd.forward_ad.unpack_dual(t).tangent for t in reparam_kl(dual_mu, dual_logvar, key))
    eps = standard_normal(key, 3, 5)
    torch.testing.assert_close(z, mu_tangent + 0.5 * torch.exp(0.5 * logvar) * eps * logvar_tangent)
    torch.testing.assert_close(kl, (mu * mu_tangent + 0.5 * (logvar.exp() - 1) * logvar_tangent).sum(-1))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd])
def test_derivatives_taken_inside_a_compiled_function_are_those_outside(device: torch.device, transform: Any) -> None:
    mu, logvar = torch.randn(2, 3, 5, device=device)
    key = noise_key(0, device=device)

    def loss(mu: Tensor) -> Tensor:
        z, kl = reparam_kl(mu, logvar, key)
        return z.square().sum() + kl.sum()

    compiled = torch.compile(transform(loss), backend="aot_eager")
    torch.testing.assert_close(compiled(mu), transform(loss)(mu))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_layers_dtype_and_a_float32_kl(device: torch.device, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(6, 8).to(device)
    with torch.autocast(device.type, dtype=dtype):
        z, kl = reparam_kl_packed(layer(torch.randn(3, 6, device=device)), noise_key(0, device=device))
    assert z.dtype == dtype
    assert kl.dtype == torch.float32
    (z.float().sum() + kl.sum()).backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("samples", [None, 2])
def test_first_and_second_derivatives_by_finite_differences(device: torch.device, samples: int | None) -> None:
    mu, logvar = inputs(1, 5, torch.float64, device)  # more columns than a block of noise has
    key = noise_key(3, device=device)

    for output in Output:
        for scale in ("exp", "softplus"):
            f = functools.partial(call, output, key=key, num_samples=samples, scale=scale)
            assert torch.autograd.gradcheck(f, (mu, logvar))
            assert torch.autograd.gradgradcheck(f, (mu, logvar))
    packed = torch.randn(1, 10, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(functools.partial(reparam_kl_packed, key=key, num_samples=samples), (packed,))
    assert torch.autograd.gradgradcheck(functools.partial(reparam_kl_packed, key=key, num_samples=samples), (packed,))


def test_second_derivatives_see_the_operator_alone(device: torch.device) -> None:
    key = noise_key(3, device=device)
    h = torch.randn(3, 5, dtype=torch.float64, device=device, requires_grad=True)
    constant = torch.zeros_like(h)
    for f in (lambda h: reparam_kl(h, 0.5 * h, key), lambda h: reparam_kl(constant, h, key), lambda h: reparam_kl(h, h, key)):
        z, kl = f(h)
        first = torch.autograd.grad(z.sum() + kl.sum(), h, retain_graph=True)
        again = torch.autograd.grad(z.sum() + kl.sum(), h, create_graph=True)
        torch.testing.assert_close(first, again)
        assert torch.autograd.gradgradcheck(f, (h,))


def test_export_serves_every_batch_size(device: torch.device) -> None:
    class Sampler(torch.nn.Module):
        def forward(self, mu: Tensor, logvar: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            return reparam_kl(mu, logvar, key)

    mu, logvar = torch.randn(2, 6, 5, device=device)
    key = noise_key(1, device=device)
    batch = torch.export.Dim("batch")
    shapes = {"mu": {0: batch}, "logvar": {0: batch}, "key": None}
    exported = torch.export.export(Sampler(), (mu, logvar, key), dynamic_shapes=shapes).module()
    mu, logvar = torch.randn(2, 41, 5, device=device)
    for a, b in zip(exported(mu, logvar, key), reparam_kl(mu, logvar, key), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, False)])
def test_raw_operators_pass_opcheck(
    module: ModuleType, device: torch.device, dtype: torch.dtype, grads: tuple[bool, bool]
) -> None:
    mu, logvar = (t.detach().requires_grad_(g) for t, g in zip(inputs(6, 10, dtype, device), grads, strict=True))
    key = noise_key(1, device=device)
    packed = torch.randn(6, 20, device=device).to(dtype).requires_grad_(grads[0])
    # What is given beside z does not depend on whose gradient is wanted.
    log_ratio: dict[str, Any] = {"num_samples": 2, "row_offset": 3, "output": "log_ratio"}
    other: list[dict[str, Any]] = [{}, {"row_offset": 3}, {"num_samples": 2, "scale": "softplus", "output": "kl"}]
    for options in [*other, log_ratio] if all(grads) else [log_ratio]:
        torch.library.opcheck(torch.ops.vae_ext.reparam_kl, (mu, logvar, key), options)
        torch.library.opcheck(torch.ops.vae_ext.reparam_kl_packed, (packed, key), options)
    upstream = torch.randn_like(mu), torch.randn(6, dtype=torch.promote_types(dtype, torch.float32), device=device)
    at_row = {"row_offset": 3}
    torch.library.opcheck(torch.ops.vae_ext.reparam_kl_backward, (*upstream, mu.detach(), logvar.detach(), key), at_row)
    torch.library.opcheck(torch.ops.vae_ext.reparam_kl_packed_backward, (*upstream, packed.detach(), key), at_row)


def test_compiles_without_a_graph_break(device: torch.device) -> None:
    mu, logvar = inputs(16, 12, torch.float32, device)
    key = noise_key(1, device=device)

    def loss(mu: Tensor, logvar: Tensor, key: Tensor) -> Tensor:
        z, kl = reparam_kl(mu, logvar, key)
        return z.square().sum() + kl.sum()

    expected = loss(mu, logvar, key)
    expected_grads = torch.autograd.grad(expected, (mu, logvar))
    actual = torch.compile(loss, fullgraph=True, backend="aot_eager")(mu, logvar, key)
    assert torch.equal(actual, expected)
    for a, e in zip(torch.autograd.grad(actual, (mu, logvar)), expected_grads, strict=True):
        torch.testing.assert_close(a, e)
