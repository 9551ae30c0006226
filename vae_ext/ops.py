"""The operator: its checks, which implementation runs, and its gradients."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Literal

import torch
from torch import Tensor

from vae_ext import reference
from vae_ext.backend import BackendError, backend, compiled_module
from vae_ext.noise import check_counts, check_key

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Pair = tuple[Tensor, Tensor]


def reparam_kl(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None = None,
    *,
    num_samples: int | None = None,
    row_offset: int = 0,
    kl_reduction: Literal["sum", "none"] = "sum",
) -> Pair:
    """Sample of N(mu, exp(logvar)) and its KL divergence from N(0, 1), in one pass.

    z = mu + exp(logvar / 2) eps; kl = (mu^2 + exp(logvar) - 1 - logvar) / 2, in nats. Differentiable in both inputs.
    Nothing is clamped: bound logvar before, where z, KL and gradients all see it.

    Args:
        mu: [..., D], float32, float64, bfloat16 or float16. Rows may be strided: the halves of an encoder's
            [B, 2 D] output go in as they are.
        logvar: [..., D], like mu.
        key: int64 [2], from :func:`vae_ext.noise_key`, on the device of mu. The noise is a function of it and of the
            element's place alone. None draws one from PyTorch's default generator.
        num_samples: K Monte Carlo samples of z; None for one, without an axis of its own.
        row_offset: where this batch's first row stands in the global batch; for a shard, or a part of a data set.
        kl_reduction: "sum" over the last dimension, or "none".

    Returns:
        z: [..., D], or [K, ..., D] with ``num_samples``; dtype of mu.
        kl: [...], or [..., D] with "none"; float64 for float64 inputs and float32 for every other.

    Raises:
        TypeError: for an argument of the wrong type or dtype.
        ValueError: for shapes, devices or numbers that do not fit.
    """
    _check(mu, logvar, key, num_samples, row_offset, kl_reduction)
    if key is None:
        key = torch.randint(2**63 - 1, (2,), dtype=torch.int64, device=mu.device)
    lead, dim = mu.shape[:-1], mu.shape[-1]
    mu_rows, logvar_rows = (t if t.dim() == 2 else t.reshape(math.prod(lead), dim) for t in (mu, logvar))
    implementation = reference.reparam_kl if _backend(mu.device.type) == "reference" else _fused
    z, kl = implementation(mu_rows, logvar_rows, key, num_samples, row_offset, kl_reduction == "sum")
    if mu.dim() == 2:
        return z, kl
    samples = () if num_samples is None else (num_samples,)
    return z.reshape(*samples, *lead, dim), kl.reshape(lead if kl_reduction == "sum" else mu.shape)


# A traced program keeps the backend that it was traced with.
_backend = torch.compiler.assume_constant_result(backend)


def _check(mu: Tensor, logvar: Tensor, key: Tensor | None, num_samples: int | None, row_offset: int, kl_reduction: str) -> None:
    for name, t in (("mu", mu), ("logvar", logvar)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(t).__name__}")
    if mu.dtype not in FLOATS:
        raise TypeError(f"mu: expected float32, float64, bfloat16 or float16, got {mu.dtype}")
    if mu.dim() == 0:
        raise ValueError("mu: expected at least one dimension, [..., D], got a scalar")
    if logvar.dtype != mu.dtype:
        raise TypeError(f"logvar: expected the dtype of mu, {mu.dtype}, got {logvar.dtype}")
    if logvar.shape != mu.shape:
        raise ValueError(f"logvar: expected the shape of mu, {list(mu.shape)}, got {list(logvar.shape)}")
    if logvar.device != mu.device:
        raise ValueError(f"logvar: expected the device of mu, {mu.device}, got {logvar.device}")
    if key is not None:
        check_key(key)
        if key.device != mu.device:
            raise ValueError(f"key: expected the device of mu, {mu.device}, got {key.device}")
    check_counts(num_samples, row_offset)
    # Not while a program is traced, where it would narrow the batch sizes that the program serves.
    if not torch.compiler.is_compiling() and row_offset > 2**32 - (rows := math.prod(mu.shape[:-1])):
        raise ValueError(f"row_offset: expected 0 to 2**32 - {rows} for {rows} rows, got {row_offset}")
    if kl_reduction not in ("sum", "none"):
        raise ValueError(f'kl_reduction: expected "sum" or "none", got {kl_reduction!r}')


class _ReparamKL(torch.autograd.Function):
    """Gradients by hand over the raw operators: less than half the overhead a call of ``register_autograd``."""

    @staticmethod
    def forward(
        ctx: Any, mu: Tensor, logvar: Tensor, key: Tensor, num_samples: int | None, row_offset: int, sum_kl: bool
    ) -> Pair:
        _save_for_backward(ctx, (mu, logvar, key, num_samples, row_offset, sum_kl), None)
        z, kl = torch.ops.vae_ext.reparam_kl(mu, logvar, key, num_samples, row_offset, sum_kl)
        return z, kl

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad_z, grad_kl)


def _fused(mu: Tensor, logvar: Tensor, key: Tensor, num_samples: int | None, row_offset: int, sum_kl: bool) -> Pair:
    z, kl = _ReparamKL.apply(mu, logvar, key, num_samples, row_offset, sum_kl)
    return z, kl


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mu, logvar, key, *ctx.rest = inputs
    ctx.save_for_backward(mu, logvar, key)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    mu, logvar, key = ctx.saved_tensors
    if grad_z is None and grad_kl is None:
        return None, None, None, None, None, None
    if torch.is_grad_enabled():
        grads = _differentiable_gradients(grad_z, grad_kl, mu, logvar, key, *ctx.rest)
    else:
        grads = torch.ops.vae_ext.reparam_kl_backward(grad_z, grad_kl, mu, logvar, key, *ctx.rest)
    return *grads, None, None, None, None


def _differentiable_gradients(
    grad_z: Tensor | None, grad_kl: Tensor | None, mu: Tensor, logvar: Tensor, key: Tensor, *rest: Any
) -> tuple[Tensor | None, ...]:
    """The gradients as a graph of their own, for second derivatives (``create_graph=True``): the reference's.

    Views of the inputs stand in for them, so that only the operator is differentiated and not what lies before it: logvar
    may depend on mu.
    """
    inputs = (mu.view_as(mu), logvar.view_as(logvar))
    pairs = zip(reference.reparam_kl(inputs[0], inputs[1], key, *rest), (grad_z, grad_kl), strict=True)
    used = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
    wanted = tuple(t for t in inputs if t.requires_grad)
    outputs, upstream = zip(*used, strict=True)
    grads = iter(torch.autograd.grad(outputs, wanted, upstream, create_graph=True, allow_unused=True))
    return tuple(next(grads) if t.requires_grad else None for t in inputs)


def _fake(mu: Tensor, logvar: Tensor, key: Tensor, num_samples: int | None, row_offset: int, sum_kl: bool) -> Pair:
    """Shapes and dtypes without data, for torch.compile and torch.export."""
    samples = () if num_samples is None else (num_samples,)
    kl_dtype = torch.float64 if mu.dtype == torch.float64 else torch.float32
    return mu.new_empty((*samples, *mu.shape)), mu.new_empty(mu.shape[:1] if sum_kl else mu.shape, dtype=kl_dtype)


def _fake_backward(grad_z: Tensor | None, grad_kl: Tensor | None, mu: Tensor, *rest: Any) -> Pair:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _register() -> None:
    torch.library.register_fake("vae_ext::reparam_kl")(_fake)
    torch.library.register_fake("vae_ext::reparam_kl_backward")(_fake_backward)
    torch.library.register_autograd("vae_ext::reparam_kl", _backward, setup_context=_save_for_backward)


# Something that is asked for and cannot be had is an error where the operator is used, not where it is imported.
with contextlib.suppress(BackendError):
    if compiled_module() is not None:
        _register()
