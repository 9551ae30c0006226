"""The public Gaussian operators: their forms, and the checks of their arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from vae_ext.autograd import SCALES, Options, Output, Pair, RunKernel, run_kernel, run_reference
from vae_ext.dispatch import FLOATS, by_reference, wants_gradient
from vae_ext.noise import check_counts, check_key

Scale = Literal["exp", "softplus"]


def reparam_kl(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None = None,
    *,
    num_samples: int | None = None,
    row_offset: int = 0,
    kl_reduction: Literal["sum", "none"] = "sum",
    scale: Scale = "exp",
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
) -> Pair:
    """Samples z from N(mu, sigma^2), and computes its KL divergence from N(0, 1) or another diagonal Gaussian, in one pass.

    sigma = exp(logvar / 2); z = mu + sigma eps; kl = (mu^2 + exp(logvar) - 1 - logvar) / 2, in nats. With a prior, mu^2 and
    logvar in kl are replaced by d^2 and l, d = (mu - prior_mu) exp(-prior_logvar / 2), l = logvar - prior_logvar; z is the
    same. Differentiable in all of these tensors. Nothing is clamped: clamp logvar before, so that z, KL and gradients agree.

    The backward pass saves the inputs and z, but no noise. On a CPU, in float32 and float64 with sigma = exp(logvar / 2), it
    reads sigma eps as z - mu where |mu| <= 64 sigma and 2^-100 <= sigma <= 2^100, with an error of at most
    u (64 + 3 |eps|) sigma, u = 2^-24 (2^-53 in float64); elsewhere it generates the noise again. So z must not be overwritten
    before, and the bits of logvar's gradient may depend on the device; those of z, kl and the noise never do.

    Args:
        mu: [..., D], float32, float64, bfloat16 or float16. Rows may be strided: the halves of an encoder's
            [B, 2 D] output are not copied.
        logvar: [..., D], like mu. With ``scale="softplus"`` it is rho, and sigma = softplus(rho) = ln(1 + exp(rho)).
        key: int64 [2], from :func:`vae_ext.noise_key`, on the device of mu. The noise is a function only of the key and of
            the element's position. None: a key is drawn from PyTorch's default generator.
        num_samples: K Monte Carlo samples of z; None: one, without a dimension of its own.
        row_offset: index of this batch's first row in the global batch, for a shard or a part of a data set.
        kl_reduction: "sum" over the last dimension, or "none".
        scale: "exp" or "softplus".
        prior_mu: [D], one prior for all rows, or [..., D] like mu, one per row; dtype of mu. None (with prior_logvar): N(0, 1).
            The gradient of a [D] prior is summed over the rows in a fixed order.
        prior_logvar: [D] or [..., D]; a logvar whatever the scale of the posterior.

    Returns:
        z: [..., D], or [K, ..., D] with ``num_samples``; dtype of mu.
        kl: [...], or [..., D] with "none"; float64 for float64 inputs, otherwise float32.

    Raises:
        TypeError: for an argument of the wrong type or dtype.
        ValueError: for inconsistent shapes or devices, and numbers out of range.
    """
    if kl_reduction not in ("sum", "none"):
        raise ValueError(f'kl_reduction: expected "sum" or "none", got {kl_reduction!r}')
    output = Output.KL_SUM if kl_reduction == "sum" else Output.KL
    return _of_pair(mu, logvar, prior_mu, prior_logvar, key, num_samples, row_offset, scale, output)


def reparam_log_ratio(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None = None,
    *,
    num_samples: int | None = None,
    row_offset: int = 0,
    scale: Scale = "exp",
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
) -> Pair:
    """Samples z from N(mu, sigma^2), and computes log p(z) - log q(z|x), for the importance-weighted bound.

    The ratio is sum over D of (logvar + eps^2 - z^2) / 2, in nats (Burda, Grosse, Salakhutdinov: *Importance Weighted
    Autoencoders*, 2016); its mean over samples is -kl. With a prior p = N(prior_mu, exp(prior_logvar)), logvar and z are
    replaced by logvar - prior_logvar and (z - prior_mu) exp(-prior_logvar / 2). Differentiable in all of these tensors, also
    through z.

    All arguments are those of :func:`reparam_kl`.

    Returns:
        z: [..., D], or [K, ..., D] with ``num_samples``; dtype of mu.
        log_ratio: [...], or [K, ...]; float64 for float64 inputs, otherwise float32.

    Raises:
        TypeError, ValueError: as in :func:`reparam_kl`.
    """
    return _of_pair(mu, logvar, prior_mu, prior_logvar, key, num_samples, row_offset, scale, Output.LOG_RATIO)


def reparam_kl_packed(
    packed: Tensor,
    key: Tensor | None = None,
    *,
    num_samples: int | None = None,
    row_offset: int = 0,
    scale: Scale = "exp",
) -> Pair:
    """:func:`reparam_kl` of an encoder's output: mu is the first half of its last dimension, logvar the second.

    The gradient is also one tensor, while ``chunk`` would have to concatenate two. The key and the keyword arguments are those
    of :func:`reparam_kl`.

    Args:
        packed: [..., 2 D].

    Returns:
        z: [..., D], or [K, ..., D]; kl: [...], summed over D.

    Raises:
        TypeError, ValueError: as in :func:`reparam_kl`.
    """
    if not isinstance(packed, Tensor):
        raise TypeError(f"packed: expected a Tensor, got {type(packed).__name__}")
    if packed.dim() == 0 or packed.shape[-1] % 2 != 0:
        raise ValueError(f"packed: expected an even last dimension, [..., 2 D], got {list(packed.shape)}")
    key, options = _common("packed", packed, key, num_samples, row_offset, scale, Output.KL_SUM)
    return _run((packed,), key, options)


def _of_pair(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    key: Tensor | None,
    num_samples: int | None,
    row_offset: int,
    scale: Scale,
    output: Output,
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
    if prior_mu is None and prior_logvar is None:
        return _run((mu, logvar), key, options)
    return _run((mu, logvar, *_checked_prior(prior_mu, prior_logvar, mu)), key, options)


def _checked_prior(prior_mu: Tensor | None, prior_logvar: Tensor | None, mu: Tensor) -> Iterator[Tensor]:
    for name, t, other in (("prior_mu", prior_mu, "prior_logvar"), ("prior_logvar", prior_logvar, "prior_mu")):
        if t is None:
            raise ValueError(f"{name}: expected a Tensor, as {other} is given, got None")
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(t).__name__}")
        if t.dtype != mu.dtype:
            raise TypeError(f"{name}: expected the dtype of mu, {mu.dtype}, got {t.dtype}")
        if t.shape != (mu.shape if t.dim() == mu.dim() else mu.shape[-1:]):
            shapes = f"{list(mu.shape[-1:])}, or the shape of mu, {list(mu.shape)}"
            raise ValueError(f"{name}: expected {shapes}, got {list(t.shape)}")
        if t.device != mu.device:
            raise ValueError(f"{name}: expected the device of mu, {mu.device}, got {t.device}")
        yield t


def _common(
    name: str, t: Tensor, key: Tensor | None, num_samples: int | None, row_offset: int, scale: Scale, output: Output
) -> tuple[Tensor, Options]:
    """Checks what all forms share, and draws a key if none is given."""
    if t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {t.dtype}")
    if key is None:
        key = torch.randint(2**63 - 1, (2,), dtype=torch.int64, device=t.device)
    check_key(key, name, t)
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


def _run(inputs: tuple[Tensor, ...], key: Tensor, options: Options) -> Pair:
    """Returns z and the second output for inputs with any leading dimensions, which are flattened to rows.

    The inputs are a packed tensor, mu and logvar, or these and the prior's two, [D] or with rows as well.
    """
    *lead, dim = inputs[0].shape
    if len(lead) != 1:
        inputs = tuple(t.reshape(math.prod(lead), dim) if i < 2 or t.dim() > 1 else t for i, t in enumerate(inputs))
    if by_reference(inputs[0]):
        z, out = run_reference(inputs, key, options)
    else:
        z, out = RunKernel.apply(key, options, *inputs) if wants_gradient(*inputs) else run_kernel(inputs, key, options)
    if len(lead) == 1:
        return z, out
    samples = (options["num_samples"],) if "num_samples" in options else ()
    shape = {Output.KL_SUM: lead, Output.KL: (*lead, z.shape[-1]), Output.LOG_RATIO: (*samples, *lead)}
    return z.reshape(*samples, *lead, z.shape[-1]), out.reshape(shape[Output(options.get("output", Output.KL_SUM))])
