"""The operators with PyTorch's tools: higher derivatives, torch.func, autocast, export and compile."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vae_ext.tensors import assert_same_bits, call, inputs, random_bytes, random_logits
from vae_ext import bernoulli_log_prob, binarize, noise_key, reparam_kl, reparam_kl_packed, standard_normal
from vae_ext.autograd import Output
from vae_ext.dispatch import FLOATS


def drawn_log_prob(logits: Tensor, pixels: Tensor, key: Tensor) -> tuple[Tensor]:
    return (bernoulli_log_prob(logits, binarize(pixels, key)),)


def posteriors(rows: int, device: torch.device) -> Iterable[Tensor]:
    return torch.randn(2, rows, 33, device=device)


def decoded(rows: int, device: torch.device, samples: tuple[int, ...] = ()) -> Iterable[Tensor]:
    return random_logits(*samples, rows, 33, device=device), random_bytes(rows, 33, device)


# Operators of two tensors with equal numbers of rows, and a key.
OPERATORS = [(reparam_kl, posteriors), (drawn_log_prob, decoded)]
WITH_SAMPLES = [*OPERATORS, (drawn_log_prob, functools.partial(decoded, samples=(2,)))]


def sum_of_squares(outputs: Iterable[Tensor]) -> Tensor:
    return torch.stack([output.square().sum() for output in outputs]).sum()


@pytest.mark.parametrize(("operator", "inputs_of"), OPERATORS)
def test_vmap_and_func_grad_match_a_loop(device: torch.device, operator: Any, inputs_of: Any) -> None:
    a, b = (t.unflatten(0, (3, 4)) for t in inputs_of(12, device))
    key = noise_key(0, device=device)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sum_of_squares(operator(a, b, key))

    losses = torch.func.vmap(loss)(a, b)
    grads = torch.func.vmap(torch.func.grad(loss))(a, b)
    for i in range(3):
        torch.testing.assert_close(losses[i], loss(a[i], b[i]))
        torch.testing.assert_close(grads[i], torch.func.grad(loss)(a[i], b[i]))


def test_forward_mode_derivatives_match_the_reference(device: torch.device) -> None:
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
def test_derivatives_inside_a_compiled_function_match_those_outside(device: torch.device, transform: Any) -> None:
    mu, logvar = torch.randn(2, 3, 5, device=device)
    key = noise_key(0, device=device)

    def loss(mu: Tensor) -> Tensor:
        z, kl = reparam_kl(mu, logvar, key)
        return z.square().sum() + kl.sum()

    compiled = torch.compile(transform(loss), backend="aot_eager")
    torch.testing.assert_close(compiled(mu), transform(loss)(mu))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_layers_dtype_and_float32_sums(device: torch.device, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(6, 8).to(device)
    with torch.autocast(device.type, dtype=dtype):
        output = layer(torch.randn(3, 6, device=device))
        z, kl = reparam_kl_packed(output, noise_key(0, device=device))
        log_prob = bernoulli_log_prob(output, random_bytes(3, 8, device))
    assert output.dtype == z.dtype == dtype
    assert kl.dtype == log_prob.dtype == torch.float32
    for used in (z.float(), kl, log_prob):
        (grad,) = torch.autograd.grad(used.sum(), layer.weight, retain_graph=True)
        assert grad.any()


@pytest.mark.parametrize("samples", [None, 2])
def test_first_and_second_derivatives_match_finite_differences(device: torch.device, samples: int | None) -> None:
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


@pytest.mark.parametrize(
    "function",
    [
        lambda h, key: reparam_kl(h, 0.5 * h, key),
        lambda h, key: reparam_kl(torch.zeros_like(h), h, key),
        lambda h, key: reparam_kl(h, h, key),
        lambda h, key: drawn_log_prob(h * h, random_bytes(3, 5, h.device), key),
    ],
)
def test_second_derivatives_include_only_the_operator(device: torch.device, function: Any) -> None:
    f = functools.partial(function, key=noise_key(3, device=device))
    h = torch.randn(3, 5, dtype=torch.float64, device=device, requires_grad=True)
    sums = [output.sum() for output in f(h)]
    first = torch.autograd.grad(sums, h, retain_graph=True)
    again = torch.autograd.grad(sums, h, create_graph=True)
    torch.testing.assert_close(first, again)
    assert torch.autograd.gradgradcheck(f, (h,))


@pytest.mark.parametrize(("operator", "inputs_of"), WITH_SAMPLES)
def test_exported_programs_support_every_batch_size(device: torch.device, operator: Any, inputs_of: Any) -> None:
    class Exported(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor, key: Tensor) -> Any:
            return operator(a, b, key)

    a, b = inputs_of(6, device)
    key, batch = noise_key(1, device=device), torch.export.Dim("batch")
    shapes = {"a": {a.dim() - 2: batch}, "b": {0: batch}, "key": None}
    exported = torch.export.export(Exported(), (a, b, key), dynamic_shapes=shapes).module()
    a, b = inputs_of(41, device)
    assert_same_bits(exported(a, b, key), operator(a, b, key))


@pytest.mark.parametrize(
    ("dtype", "grads"),
    [*((dtype, (True, True)) for dtype in FLOATS), (torch.float32, (True, False)), (torch.float32, (False, False))],
)
def test_raw_operators_pass_opcheck(
    module: ModuleType, device: torch.device, dtype: torch.dtype, grads: tuple[bool, bool]
) -> None:
    mu, logvar = (t.detach().requires_grad_(g) for t, g in zip(inputs(6, 10, dtype, device), grads, strict=True))
    key = noise_key(1, device=device)
    packed = torch.randn(6, 20, device=device).to(dtype).requires_grad_(grads[0])
    # The second output does not depend on which gradients are required.
    log_ratio: dict[str, Any] = {"num_samples": 2, "row_offset": 3, "output": "log_ratio"}
    other: list[dict[str, Any]] = [{}, {"row_offset": 3}, {"num_samples": 2, "scale": "softplus", "output": "kl"}]
    for options in [*other, log_ratio] if all(grads) else [log_ratio]:
        torch.library.opcheck(torch.ops.vae_ext.reparam_kl, (mu, logvar, key), options)
        torch.library.opcheck(torch.ops.vae_ext.reparam_kl_packed, (packed, key), options)
    upstream = torch.randn_like(mu), torch.randn(6, dtype=torch.promote_types(dtype, torch.float32), device=device)
    at_row = {"row_offset": 3}
    torch.library.opcheck(torch.ops.vae_ext.reparam_kl_backward, (*upstream, mu.detach(), logvar.detach(), key), at_row)
    torch.library.opcheck(torch.ops.vae_ext.reparam_kl_packed_backward, (*upstream, packed.detach(), key), at_row)
    if device.type == "cpu" and dtype in (torch.float32, torch.float64):
        z = torch.randn_like(mu).detach()
        torch.library.opcheck(torch.ops.vae_ext.reparam_kl_backward, (*upstream, mu.detach(), logvar.detach(), key, z), at_row)
        torch.library.opcheck(torch.ops.vae_ext.reparam_kl_packed_backward, (*upstream, packed.detach(), key, z), at_row)


@pytest.mark.parametrize(("operator", "inputs_of"), WITH_SAMPLES)
def test_operators_compile_without_a_graph_break(device: torch.device, operator: Any, inputs_of: Any) -> None:
    a, b = inputs_of(16, device)
    leaves = [t.requires_grad_() for t in (a, b) if t.is_floating_point()]

    def loss(a: Tensor, b: Tensor, key: Tensor) -> Tensor:
        return sum_of_squares(operator(a, b, key))

    key = noise_key(1, device=device)
    expected = loss(a, b, key)
    actual = torch.compile(loss, fullgraph=True, backend="aot_eager")(a, b, key)
    assert torch.equal(actual, expected)
    for compiled, plain in zip(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert torch.equal(compiled, plain)
