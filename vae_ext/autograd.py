"""Gradients of the raw operators, and their shapes for tracing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TypedDict

import torch
from torch import Tensor

from vae_ext import reference
from vae_ext.backend import BackendError, compiled_module
from vae_ext.dispatch import call_kernel, check_known
from vae_ext.noise import check_whole

Pair = tuple[Tensor, Tensor]
SCALES = ("exp", "softplus")


class Output(StrEnum):
    """The second output of the operators, by its name in the raw operators."""

    KL_SUM = "kl_sum"
    KL = "kl"
    LOG_RATIO = "log_ratio"


class Options(TypedDict, total=False):
    """Keyword arguments of the raw operators; defaults are omitted, since each argument costs half a microsecond per call."""

    num_samples: int
    row_offset: int
    scale: str
    output: str


# The raw operators by number of tensors before the key: mu and logvar packed, these two, or these and a prior's two.
NAMES = {1: "reparam_kl_packed", 2: "reparam_kl", 4: "reparam_kl_prior"}


def run_kernel(inputs: tuple[Tensor, ...], key: Tensor, options: Options) -> Pair:
    """Calls the raw operator for these inputs."""
    pair: Pair = call_kernel(getattr(torch.ops.vae_ext, NAMES[len(inputs)]), *inputs, key, **options)
    return pair


def run_reference(inputs: Sequence[Tensor], key: Tensor, options: Options) -> Pair:
    """Computes the same in plain PyTorch."""
    mu, logvar, *prior = inputs if len(inputs) > 1 else inputs[0].chunk(2, dim=-1)
    return reference.reparam_kl(mu, logvar, key, **options, **dict(zip(("prior_mu", "prior_logvar"), prior, strict=False)))


class RunKernel(torch.autograd.Function):
    """Calls the raw operator with gradients, at less than half the overhead of ``register_autograd``.

    Has no ``setup_context``, which would support torch.func at 80 us per call: there, the reference is used.
    """

    @staticmethod
    def forward(ctx: Any, key: Tensor, options: Options, *inputs: Tensor) -> Pair:
        output = run_kernel(inputs, key, options)
        _save(ctx, (*inputs, key), options, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
        *grads, of_key = _backward(ctx, grad_z, grad_out)
        return of_key, None, *grads


def _reads_z(t: Tensor, scale: str = "exp", output: str = "kl_sum", **_: Any) -> bool:
    """Whether the backward pass may read the noise off z, which must then be saved; mirrors csrc/torch/gaussian.cpp."""
    return t.is_cpu and t.dtype in (torch.float32, torch.float64) and scale == "exp" and output != Output.LOG_RATIO


def _save(ctx: Any, inputs: tuple[Tensor, ...], keyword_only_inputs: Any, output: Pair) -> None:
    ctx.save_for_backward(*inputs, output[0] if _reads_z(inputs[0], **keyword_only_inputs) else None)
    ctx.options = keyword_only_inputs
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_z: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
    """Returns the gradients of the inputs, and None for the key."""
    *inputs, key, z = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *_differentiable(grad_z, grad_out, inputs, key, ctx.options), None
    if grad_z is None and grad_out is None:
        return (None,) * (len(inputs) + 1)
    operator = getattr(torch.ops.vae_ext, f"{NAMES[len(inputs)]}_backward")
    grads = call_kernel(operator, grad_z, grad_out, *inputs, key, z, **ctx.options)
    return *((grads,) if len(inputs) == 1 else grads), None


def _differentiable(
    grad_z: Tensor | None, grad_out: Tensor | None, inputs: list[Tensor], key: Tensor, options: Options
) -> tuple[Tensor | None, ...]:
    """Computes the gradients as a differentiable graph, for second derivatives (``create_graph=True``), by the reference.

    Uses views of the inputs, so that only the operator is differentiated and not the computation before it: logvar may
    depend on mu.
    """
    inputs = [t.view_as(t) for t in inputs]
    pairs = zip(run_reference(inputs, key, options), (grad_z, grad_out), strict=True)
    used = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
    if not used:
        return (None,) * len(inputs)
    wanted = tuple(t for t in inputs if t.requires_grad)
    outputs, upstream = zip(*used, strict=True)
    grads = iter(torch.autograd.grad(outputs, wanted, upstream, create_graph=True, allow_unused=True))
    return tuple(next(grads) if t.requires_grad else None for t in inputs)


def _check_options(
    t: Tensor, num_samples: int | None = None, row_offset: int = 0, scale: str = "exp", output: str = "kl_sum"
) -> None:
    if num_samples is not None:
        check_whole("num_samples", num_samples, 1, 2**32)
    check_known(t.shape[0], row_offset)
    for name, value, names in (("scale", scale, SCALES), ("output", output, tuple(Output))):
        if value not in names:
            raise ValueError(f"{name}: expected one of {', '.join(names)}; got {value}")


def _fake(t: Tensor, dim: int, *, num_samples: int | None = None, output: str = "kl_sum", **options: Any) -> Pair:
    """Returns shapes and dtypes without data, for torch.compile and torch.export."""
    _check_options(t, num_samples, output=output, **options)
    rows = t.shape[0]
    samples = () if num_samples is None else (num_samples,)
    shape = {Output.KL_SUM: (rows,), Output.KL: (rows, dim), Output.LOG_RATIO: (*samples, rows)}[Output(output)]
    out_dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
    return t.new_empty((*samples, rows, dim)), t.new_empty(shape, dtype=out_dtype)


def _fake_grad(t: Tensor, **options: Any) -> Tensor:
    _check_options(t, **options)
    return t.new_empty(t.shape)


def _register() -> None:
    """Registers the raw operators' shapes for tracing, and gradients for direct calls."""
    fake = torch.library.register_fake
    fake("vae_ext::reparam_kl", lambda mu, _l, _k, **options: _fake(mu, mu.shape[1], **options))
    fake("vae_ext::reparam_kl_packed", lambda packed, _k, **options: _fake(packed, packed.shape[1] // 2, **options))
    fake(
        "vae_ext::reparam_kl_backward",
        lambda _gz, _go, mu, _l, _k, _z=None, **opts: tuple(_fake_grad(mu, **opts) for _ in range(2)),
    )
    fake("vae_ext::reparam_kl_packed_backward", lambda _gz, _go, packed, _k, _z=None, **options: _fake_grad(packed, **options))
    fake("vae_ext::reparam_kl_prior", lambda mu, _l, _pm, _pl, _k, **options: _fake(mu, mu.shape[1], **options))
    fake(
        "vae_ext::reparam_kl_prior_backward",
        lambda _gz, _go, mu, _l, *prior_and_key, **opts: (
            *(_fake_grad(mu, **opts) for _ in range(2)),
            *(t.new_empty(t.shape) for t in prior_and_key[:2]),
        ),
    )
    for name in NAMES.values():
        torch.library.register_autograd(f"vae_ext::{name}", _backward, setup_context=_save)


# A requested but unavailable backend is an error when the operator is called, not when it is imported.
with contextlib.suppress(BackendError):
    if compiled_module() is not None:
        _register()
