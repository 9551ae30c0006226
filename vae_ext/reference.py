"""The operators in plain PyTorch: the formulas in readable form, against which the kernels are tested.

Also used where nothing can be compiled. Kingma, Welling: *Auto-Encoding Variational Bayes*, 2014, section 2.4
(reparameterisation) and appendix B (KL divergence).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vae_ext.noise import standard_normal, words


def reparam_kl(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor,
    num_samples: int | None = None,
    row_offset: int = 0,
    scale: str = "exp",
    output: str = "kl_sum",
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns z and the second output for ``[B, D]`` inputs; :mod:`vae_ext.ops` documents the arguments.

    A prior is ``[B, D]`` or ``[D]``.

    The arithmetic is float64 for float64 inputs, otherwise float32; z is rounded to the inputs' dtype at the end. Gradients are
    autograd's: where exp(logvar) overflows they may be infinite or NaN, while the kernels', which multiply before they
    exponentiate, are finite.
    """
    dtype = mu.dtype
    mu, logvar = _at_least_float32(mu), _at_least_float32(logvar)
    if scale == "softplus":
        logvar = logvar_of_softplus(logvar)
    rows, dim = mu.shape
    eps = standard_normal(key, rows, dim, num_samples=num_samples, row_offset=row_offset).to(mu.dtype)
    whitened = z = reparameterize(mu, logvar, eps)
    if prior_mu is not None and prior_logvar is not None:
        mu, logvar = whiten(mu, logvar, _at_least_float32(prior_mu), _at_least_float32(prior_logvar))
        whitened = reparameterize(mu, logvar, eps) if output == "log_ratio" else z
    if output == "log_ratio":
        return z.to(dtype), log_ratio(logvar, whitened, eps).sum(-1)
    kl = kl_divergence(mu, logvar)
    return z.to(dtype), kl.sum(-1) if output == "kl_sum" else kl


def _at_least_float32(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def whiten(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and log-variance of (z - prior_mu) / prior_sigma: the posterior after mapping the prior to N(0, 1).

    KL and log-ratio do not change. The inputs are subtracted before any rounding, so that the KL of nearly equal Gaussians
    keeps its precision.
    """
    return (mu - prior_mu) * torch.exp(-0.5 * prior_logvar), logvar - prior_logvar


def logvar_of_softplus(rho: Tensor) -> Tensor:
    """Returns logvar = 2 ln softplus(rho), for a scale given as sigma = softplus(rho) = ln(1 + exp(rho)).

    For rho << 0, where exp(rho) rounds to 0, softplus(rho) = exp(rho) and logvar = 2 rho.
    """
    far_below = rho < -30
    safe = torch.where(far_below, torch.zeros_like(rho), rho)
    return 2 * torch.where(far_below, rho, torch.log(torch.nn.functional.softplus(safe, threshold=50)))


def log_ratio(logvar: Tensor, z: Tensor, eps: Tensor) -> Tensor:
    """Returns log p(z) - log q(z|x) of z = mu + sigma eps per element: (logvar + eps^2 - z^2) / 2, in nats."""
    return 0.5 * (logvar + (eps - z) * (eps + z))


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """Returns z = mu + sigma eps, sigma = exp(logvar / 2): a sample of N(mu, sigma^2), differentiable in both."""
    return mu + torch.exp(0.5 * logvar) * eps


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Returns KL(N(mu, exp(logvar)) || N(0, 1)) = (mu^2 + exp(logvar) - 1 - logvar) / 2, in nats, per element.

    For small l, exp(l) - 1 - l subtracts nearly equal numbers, and so does expm1(l) - l; its series does not:
    l^2 / 2 (1 + l / 3 (1 + l / 4 (1 + ...))).
    """
    near_zero = logvar.abs() < 0.5
    # Both branches of a where are differentiated: keep the argument of the unused one finite.
    small = torch.where(near_zero, logvar, torch.zeros_like(logvar))
    tail = torch.ones_like(small)
    for n in range(15, 2, -1):  # to the last bit of float64
        tail = 1 + small / n * tail
    excess = torch.where(near_zero, 0.5 * small * small * tail, torch.expm1(logvar) - logvar)
    return 0.5 * (mu * mu + excess)


def grey(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts bytes 0 .. 255 to x in [0, 1]."""
    return pixels.to(dtype) / 255


def bernoulli_log_prob(logits: Tensor, pixels: Tensor) -> Tensor:
    """Returns log p(x|logits) = sum over pixels of x l - ln(1 + e^l), [..., B], for logits [..., B, D] and bytes [B, D]."""
    logits = _at_least_float32(logits)
    return (grey(pixels, logits.dtype) * logits - torch.nn.functional.softplus(logits, threshold=50)).sum(-1)


def binarize(pixels: Tensor, key: Tensor, row_offset: int) -> Tensor:
    """Returns 255 where a word of noise is below pixels 2^32 / 255, and 0 elsewhere: [B, D], for [B, D] bytes.

    In integers: 2^32 = 255 * 0x01010101 + 1, so the bound is the byte repeated four times, plus a fraction.
    """
    rows, dim = pixels.shape
    noise = words(key, rows, dim, row_offset=row_offset)[0, :, :dim]
    white = (pixels != 0) & (noise <= pixels.long() * 0x01010101)
    return white.to(torch.uint8) * 255


def take_pixels(images: Tensor, rows: Tensor, key: Tensor | None, row_offset: int) -> tuple[Tensor, Tensor]:
    """Returns rows [B] of images [N, D], binarized if there is a key, and the same over 255: uint8 and float32 [B, D]."""
    try:
        pixels = images.index_select(0, rows)
    except (IndexError, RuntimeError):  # not on a GPU: there index_select's kernel asserts, like ours
        wrong = rows[(rows < 0) | (rows >= images.shape[0])]
        if wrong.numel() == 0:
            raise
        raise IndexError(f"rows: expected 0 <= row < {images.shape[0]}, got {wrong[0].item()}") from None
    if key is not None:
        pixels = binarize(pixels, key, row_offset)
    # PyTorch divides by a number only on the CPU: on a GPU it multiplies by 1 / 255.
    return pixels, pixels.float() / pixels.new_full((), 255, dtype=torch.float32)
