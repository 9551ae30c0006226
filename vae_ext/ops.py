"""The operator: its checks, which implementation runs, and its gradients."""

from __future__ import annotations

import contextlib
import math
from enum import StrEnum
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vae_ext import reference
from vae_ext.backend import BackendError, backend_of, compiled_module
from vae_ext.noise import check_counts, check_key, check_whole

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Pair = tuple[Tensor, Tensor]
Scale = Literal["exp", "softplus"]
SCALES = ("exp", "softplus")


class Output(StrEnum):
    """What comes beside z, by the names of the raw operators."""

    KL_SUM = "kl_sum"
    KL = "kl"
    LOG_RATIO = "log_ratio"


class Options(TypedDict, total=False):
    """The raw operators' keyword arguments, but for those that have their defaults: each costs half a microsecond a call."""

    num_samples: int
    row_offset: int
    scale: str
    output: str


def reparam_kl(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None = None,
    *,
    num_samples: int | None = None,
    row_offset: int = 0,
    kl_reduction: Literal["sum", "none"] = "sum",
    scale: Scale = "exp",
) -> Pair:
    """Sample of N(mu, sigma^2) and its KL divergence from N(0, 1), in one pass.

    sigma = exp(logvar / 2); z = mu + sigma eps; kl = (mu^2 + exp(logvar) - 1 - logvar) / 2, in nats. Differentiable in both
    inputs. Nothing is clamped: bound logvar before, where z, KL and gradients all see it.

    Args:
        mu: [..., D], float32, float64, bfloat16 or float16. Rows may be strided: the halves of an encoder's
            [B, 2 D] output go in as they are.
        logvar: [..., D], like mu. With ``scale="softplus"`` it is rho, and sigma = softplus(rho) = ln(1 + exp(rho)).
        key: int64 [2], from :func:`vae_ext.noise_key`, on the device of mu. The noise is a function of it and of the
            element's place alone. None draws one from PyTorch's default generator.
        num_samples: K Monte Carlo samples of z; None for one, without an axis of its own.
        row_offset: where this batch's first row stands in the global batch; for a shard, or a part of a data set.
        kl_reduction: "sum" over the last dimension, or "none".
        scale: "exp" or "softplus".

    Returns:
        z: [..., D], or [K, ..., D] with ``num_samples``; dtype of mu.
        kl: [...], or [..., D] with "none"; float64 for float64 inputs and float32 for every other.

    Raises:
        TypeError: for an argument of the wrong type or dtype.
        ValueError: for shapes, devices or numbers that do not fit.
    """
    if kl_reduction not in ("sum", "none"):
        raise ValueError(f'kl_reduction: expected "sum" or "none", got {kl_reduction!r}')
    output = Output.KL_SUM if kl_reduction == "sum" else Output.KL
    return _of_pair(mu, logvar, key, num_samples, row_offset, scale, output)


def reparam_log_ratio(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None = None,
    *,
    num_samples: int | None = None,
    row_offset: int = 0,
    scale: Scale = "exp",
) -> Pair:
    """Sample of N(mu, sigma^2) and its log importance ratio log p(z) - log q(z|x), for the importance-weighted bound.

    The ratio is sum over D of (logvar + eps^2 - z^2) / 2, in nats (Burda, Grosse, Salakhutdinov: *Importance Weighted
    Autoencoders*, 2016); its mean over samples is -kl. Differentiable in both inputs, through z as well.

    Args:
        mu, logvar, key, num_samples, row_offset, scale: as in :func:`reparam_kl`.

    Returns:
        z: [..., D], or [K, ..., D] with ``num_samples``; dtype of mu.
        log_ratio: [...], or [K, ...]; float64 for float64 inputs and float32 for every other.

    Raises:
        TypeError, ValueError: as :func:`reparam_kl`.
    """
    return _of_pair(mu, logvar, key, num_samples, row_offset, scale, Output.LOG_RATIO)


def reparam_kl_packed(
    packed: Tensor,
    key: Tensor | None = None,
    *,
    num_samples: int | None = None,
    row_offset: int = 0,
    scale: Scale = "exp",
) -> Pair:
    """:func:`reparam_kl` of an encoder's output as it is: mu in the first half of the last dimension, logvar in the second.

    The gradient comes back as one tensor too, where ``chunk`` would have to put two together.

    Args:
        packed: [..., 2 D].
        key, num_samples, row_offset, scale: as in :func:`reparam_kl`.

    Returns:
        z: [..., D], or [K, ..., D]; kl: [...], summed over D.

    Raises:
        TypeError, ValueError: as :func:`reparam_kl`.
    """
    if not isinstance(packed, Tensor):
        raise TypeError(f"packed: expected a Tensor, got {type(packed).__name__}")
    if packed.dim() == 0 or packed.shape[-1] % 2 != 0:
        raise ValueError(f"packed: expected an even last dimension, [..., 2 D], got {list(packed.shape)}")
    key, options = _common("packed", packed, key, num_samples, row_offset, scale, Output.KL_SUM)
    rows = packed if packed.dim() == 2 else packed.reshape(math.prod(packed.shape[:-1]), packed.shape[-1])
    if by_reference(packed):
        mu, logvar = rows.chunk(2, dim=-1)
        z, kl = reference.reparam_kl(mu, logvar, key, **options)
    elif wants_gradient(packed):
        z, kl = _Packed.apply(rows, key, options)
    else:
        z, kl = call_kernel(torch.ops.vae_ext.reparam_kl_packed, rows, key, **options)
    return _unflatten(z, kl, packed.shape[:-1], options)


def _of_pair(
    mu: Tensor, logvar: Tensor, key: Tensor | None, num_samples: int | None, row_offset: int, scale: Scale, output: Output
) -> Pair:
    for name, t in (("mu", mu), ("logvar", logvar)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(t).__name__}")
    if mu.dim() == 0:
        raise ValueError("mu: expected at least one dimension, [..., D], got a scalar")
    key, options = _common("mu", mu, key, num_samples, row_offset, scale, output)
    if logvar.dtype != mu.dtype:
        raise TypeError(f"logvar: expected the dtype of mu, {mu.dtype}, got {logvar.dtype}")
    if logvar.shape != mu.shape:
        raise ValueError(f"logvar: expected the shape of mu, {list(mu.shape)}, got {list(logvar.shape)}")
    if logvar.device != mu.device:
        raise ValueError(f"logvar: expected the device of mu, {mu.device}, got {logvar.device}")
    lead = mu.shape[:-1]
    if len(lead) != 1:
        mu, logvar = (t.reshape(math.prod(lead), t.shape[-1]) for t in (mu, logvar))
    if by_reference(mu):
        z, out = reference.reparam_kl(mu, logvar, key, **options)
    elif wants_gradient(mu, logvar):
        z, out = _OfPair.apply(mu, logvar, key, options)
    else:
        z, out = call_kernel(torch.ops.vae_ext.reparam_kl, mu, logvar, key, **options)
    return _unflatten(z, out, lead, options)


def _backend(kind: str) -> str:
    return backend_of(kind)


# A traced program keeps the backend that it was traced with. This is what torch.compiler.assume_constant_result does, but for
# importing torch._dynamo, which takes whoever never compiles a second or two.
_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def by_reference(t: Tensor) -> bool:
    """Whether plain PyTorch does the work: without a kernel, and under torch.func and forward-mode AD, which see through it."""
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return bool(transformed) or _backend(t.device.type) == "reference"


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether to go through autograd.Function: only if a gradient is wanted, and not in a program that is being traced."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wanted and not torch.compiler.is_compiling()


def call_kernel(operator: Any, *args: Any, **options: Any) -> Any:
    """One call of a raw operator: below autograd, which a call from above goes through in Python even without a gradient.

    A traced program gets the operator as it is, and its gradients from ``register_autograd``.
    """
    if torch.compiler.is_compiling():
        return operator.default(*args, **options)
    with torch._C._AutoDispatchBelowAutograd():
        return operator.default(*args, **options)


def _common(
    name: str, t: Tensor, key: Tensor | None, num_samples: int | None, row_offset: int, scale: Scale, output: Output
) -> tuple[Tensor, Options]:
    """Checks what every form has in common, and draws a key where none is given."""
    if t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {t.dtype}")
    if key is None:
        key = torch.randint(2**63 - 1, (2,), dtype=torch.int64, device=t.device)
    check_key(key)
    if key.device != t.device:
        raise ValueError(f"key: expected the device of {name}, {t.device}, got {key.device}")
    check_counts(num_samples, row_offset, math.prod(t.shape[:-1]))
    if scale not in SCALES:
        raise ValueError(f'scale: expected "exp" or "softplus", got {scale!r}')
    options: Options = {}
    if num_samples is not None:
        options["num_samples"] = num_samples
    if row_offset != 0:
        options["row_offset"] = row_offset
    if scale != "exp":
        options["scale"] = scale
    if output != Output.KL_SUM:
        options["output"] = output.value
    return key, options


def _unflatten(z: Tensor, out: Tensor, lead: torch.Size, options: Options) -> Pair:
    """Rows back to the leading dimensions that they came from."""
    if len(lead) == 1:
        return z, out
    samples = (options["num_samples"],) if "num_samples" in options else ()
    shape = {Output.KL_SUM: lead, Output.KL: (*lead, z.shape[-1]), Output.LOG_RATIO: (*samples, *lead)}
    return z.reshape(*samples, *lead, z.shape[-1]), out.reshape(shape[Output(options.get("output", Output.KL_SUM))])


def _save(ctx: Any, inputs: tuple[Tensor, ...], keyword_only_inputs: Any, output: Any = None) -> None:
    ctx.save_for_backward(*inputs)
    ctx.options = keyword_only_inputs
    ctx.set_materialize_grads(False)


class _OfPair(torch.autograd.Function):
    """Gradients by hand over the raw operators: less than half the overhead a call of ``register_autograd``.

    Without a ``setup_context``, which would open it to torch.func at 80 us a call: there the reference serves.
    """

    @staticmethod
    def forward(ctx: Any, mu: Tensor, logvar: Tensor, key: Tensor, options: Options) -> Pair:
        _save(ctx, (mu, logvar, key), options)
        z, out = call_kernel(torch.ops.vae_ext.reparam_kl, mu, logvar, key, **options)
        return z, out

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_of_pair_backward(ctx, grad_z, grad_out), None


class _Packed(torch.autograd.Function):
    """The same for one input."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, key: Tensor, options: Options) -> Pair:
        _save(ctx, (packed, key), options)
        z, out = call_kernel(torch.ops.vae_ext.reparam_kl_packed, packed, key, **options)
        return z, out

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_packed_backward(ctx, grad_z, grad_out), None


def _of_pair_backward(ctx: Any, grad_z: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of mu, logvar and the key; :class:`_OfPair` has the options beside them, a raw operator as keywords."""
    mu, logvar, key = ctx.saved_tensors
    grads: tuple[Tensor | None, ...] = (None, None)
    if torch.is_grad_enabled():
        grads = _differentiable(grad_z, grad_out, (mu, logvar), key, ctx.options)
    elif grad_z is not None or grad_out is not None:
        grads = call_kernel(torch.ops.vae_ext.reparam_kl_backward, grad_z, grad_out, mu, logvar, key, **ctx.options)
    return *grads, None


def _packed_backward(ctx: Any, grad_z: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
    packed, key = ctx.saved_tensors
    grad: Tensor | None = None
    if torch.is_grad_enabled():
        (grad,) = _differentiable(grad_z, grad_out, (packed,), key, ctx.options)
    elif grad_z is not None or grad_out is not None:
        grad = call_kernel(torch.ops.vae_ext.reparam_kl_packed_backward, grad_z, grad_out, packed, key, **ctx.options)
    return grad, None


def _differentiable(
    grad_z: Tensor | None, grad_out: Tensor | None, inputs: tuple[Tensor, ...], key: Tensor, options: Options
) -> tuple[Tensor | None, ...]:
    """The gradients as a graph of their own, for second derivatives (``create_graph=True``): the reference's.

    Views of the inputs stand in for them, so that only the operator is differentiated and not what lies before it: logvar
    may depend on mu.
    """
    inputs = tuple(t.view_as(t) for t in inputs)
    mu, logvar = inputs if len(inputs) == 2 else inputs[0].chunk(2, dim=-1)
    pairs = zip(reference.reparam_kl(mu, logvar, key, **options), (grad_z, grad_out), strict=True)
    used = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
    if not used:
        return (None,) * len(inputs)
    wanted = tuple(t for t in inputs if t.requires_grad)
    outputs, upstream = zip(*used, strict=True)
    grads = iter(torch.autograd.grad(outputs, wanted, upstream, create_graph=True, allow_unused=True))
    return tuple(next(grads) if t.requires_grad else None for t in inputs)


def check_known(rows: int, row_offset: int) -> None:
    """Refuses, without data, what the kernels would: if it is known while a program is traced, else they do as it runs."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if any(statically_known_true(wrong) for wrong in (row_offset < 0, row_offset + rows > 2**32)):
        raise ValueError(f"row_offset: expected 0 to 2**32 - {rows} for {rows} rows, got {row_offset}")


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
    """Shapes and dtypes without data, for torch.compile and torch.export."""
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
    """Makes the raw operators whole: shapes for tracing, and gradients for whoever calls them directly."""
    fake = torch.library.register_fake
    fake("vae_ext::reparam_kl", lambda mu, _l, _k, **options: _fake(mu, mu.shape[1], **options))
    fake("vae_ext::reparam_kl_packed", lambda packed, _k, **options: _fake(packed, packed.shape[1] // 2, **options))
    fake("vae_ext::reparam_kl_backward", lambda _z, _o, mu, _l, _k, **opts: tuple(_fake_grad(mu, **opts) for _ in range(2)))
    fake("vae_ext::reparam_kl_packed_backward", lambda _z, _o, packed, _k, **options: _fake_grad(packed, **options))
    torch.library.register_autograd("vae_ext::reparam_kl", _of_pair_backward, setup_context=_save)
    torch.library.register_autograd("vae_ext::reparam_kl_packed", _packed_backward, setup_context=_save)


# Something that is asked for and cannot be had is an error where the operator is used, not where it is imported.
with contextlib.suppress(BackendError):
    if compiled_module() is not None:
        _register()
