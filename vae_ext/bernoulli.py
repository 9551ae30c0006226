"""Bernoulli pixels: the log-likelihood of a decoder's logits, batches of images, and binarisation.

The other half of the ELBO: PyTorch's cross-entropy creates several tensors of the images' size and sums the last one; this
reads logits and bytes in one pass, and writes one number per row.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from vae_ext import reference
from vae_ext.backend import BackendError, compiled_module
from vae_ext.dispatch import FLOATS, by_reference, call_kernel, check_known, wants_gradient
from vae_ext.noise import check_counts, check_key


def bernoulli_log_prob(logits: Tensor, pixels: Tensor) -> Tensor:
    """Returns log p(x|logits) = sum over pixels of x log s + (1 - x) log(1 - s), x = pixels / 255, s = sigmoid(logits).

    Grey values are used directly as probabilities of white. Differentiable in the logits.

    Args:
        logits: [..., B, D], float32, float64, bfloat16 or float16.
        pixels: [B, D], uint8, on the device of the logits; broadcast over the dimensions before B.

    Returns:
        [..., B], in nats; float64 for float64 logits, otherwise float32.

    Raises:
        TypeError: for an argument of the wrong type or dtype.
        ValueError: for inconsistent shapes or devices.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits: expected a Tensor, got {type(logits).__name__}")
    if logits.dtype not in FLOATS:
        raise TypeError(f"logits: expected float32, float64, bfloat16 or float16, got {logits.dtype}")
    _check_bytes("pixels", pixels, "[B, D]")
    if logits.dim() < 2 or logits.shape[-2:] != pixels.shape:
        raise ValueError(f"logits: expected [..., {', '.join(map(str, pixels.shape))}] as pixels, got {list(logits.shape)}")
    if logits.device != pixels.device:
        raise ValueError(f"pixels: expected the device of logits, {logits.device}, got {pixels.device}")
    if by_reference(logits):
        return reference.bernoulli_log_prob(logits, pixels)
    lead = logits.shape[:-1]
    rows = logits if len(lead) == 1 else logits.reshape(math.prod(lead), logits.shape[-1])
    if wants_gradient(rows):
        log_prob: Tensor = _LogProb.apply(rows, pixels)
    else:
        log_prob = call_kernel(torch.ops.vae_ext.bernoulli_log_prob, rows, pixels)
    return log_prob if len(lead) == 1 else log_prob.reshape(lead)


def binarize(pixels: Tensor, key: Tensor, *, row_offset: int = 0) -> Tensor:
    """Draws each byte as 255 with probability byte / 255, otherwise 0.

    Uses the noise generator: bitwise the same everywhere, and a function only of the key and the element's position (row,
    column). With a new step of the key for every batch, this is the dynamic binarisation of Burda et al. 2016.

    Args:
        pixels: [B, D], uint8.
        key: int64 [2], from :func:`noise_key`, on the device of the pixels; must not be used for other noise.
        row_offset: index of this batch's first row in the global batch.

    Returns:
        [B, D], uint8, 0 and 255.

    Raises:
        TypeError, ValueError: for an invalid argument.
    """
    _check_bytes("pixels", pixels, "[B, D]")
    check_key(key, "pixels", pixels)
    check_counts(None, row_offset, pixels.shape[0])
    if by_reference(pixels):
        return reference.binarize(pixels, key, row_offset)
    drawn: Tensor = call_kernel(torch.ops.vae_ext.binarize, pixels, key, row_offset=row_offset)
    return drawn


def take_pixels(images: Tensor, rows: Tensor, key: Tensor | None = None, *, row_offset: int = 0) -> tuple[Tensor, Tensor]:
    """Returns a batch of images as bytes and as an encoder's input: ``images[rows]`` and the same / 255, in one pass.

    With a key, each byte is drawn as 0 or 255, like :func:`binarize` of ``images[rows]``: the noise depends on a row's position
    in the batch, not on the image.

    Args:
        images: [N, D], uint8.
        rows: [B], int64, 0 <= row < N in any order, with repetitions, on the device of the images.
        key: int64 [2], from :func:`noise_key`, on the device of the images; None: bytes are not binarized.
        row_offset: index of this batch's first row in the global batch.

    Returns:
        pixels: [B, D], uint8.
        x: [B, D], float32, pixels / 255; bitwise the same on every device.

    Raises:
        TypeError, ValueError: for an invalid argument.
        IndexError: for a row that is out of range. On a GPU the kernel asserts it, as PyTorch's kernels do, and the error is
            raised at the next synchronisation.
    """
    _check_bytes("images", images, "[N, D]")
    if not isinstance(rows, Tensor):
        raise TypeError(f"rows: expected a Tensor, got {type(rows).__name__}")
    if rows.dtype != torch.int64:
        raise TypeError(f"rows: expected int64, got {rows.dtype}")
    if rows.dim() != 1:
        raise ValueError(f"rows: expected [B], got {list(rows.shape)}")
    if rows.device != images.device:
        raise ValueError(f"rows: expected the device of images, {images.device}, got {rows.device}")
    if key is not None:
        check_key(key, "images", images)
    check_counts(None, row_offset, rows.shape[0])
    if by_reference(images):
        return reference.take_pixels(images, rows, key, row_offset)
    pixels, x = call_kernel(torch.ops.vae_ext.take_pixels, images, rows, key, row_offset=row_offset)
    return pixels, x


def _check_bytes(name: str, t: Tensor, shape: str) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(t).__name__}")
    if t.dtype != torch.uint8:
        raise TypeError(f"{name}: expected uint8, got {t.dtype}")
    if t.dim() != 2:
        raise ValueError(f"{name}: expected {shape}, got {list(t.shape)}")


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs)


class _LogProb(torch.autograd.Function):
    """The raw operator with its gradient, like :class:`vae_ext.autograd.RunKernel` for the Gaussian operators."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, pixels: Tensor) -> Tensor:
        _save(ctx, (logits, pixels), None)
        log_prob: Tensor = call_kernel(torch.ops.vae_ext.bernoulli_log_prob, logits, pixels)
        return log_prob

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, pixels = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(grad, logits, pixels), None
        return call_kernel(torch.ops.vae_ext.bernoulli_log_prob_backward, grad, logits, pixels), None


def _differentiable(grad: Tensor, logits: Tensor, pixels: Tensor) -> Tensor:
    """Computes the gradient as a differentiable graph, for second derivatives (``create_graph=True``), by the reference."""
    view = logits.view_as(logits)
    samples = logits.shape[0] // max(1, pixels.shape[0])
    log_prob = reference.bernoulli_log_prob(view.reshape(samples, *pixels.shape), pixels).flatten()
    (grad_logits,) = torch.autograd.grad(log_prob, view, grad, create_graph=True)
    return grad_logits


def _register() -> None:
    """Registers the raw operators' shapes for tracing, and a gradient for direct calls."""

    def fake_log_prob(logits: Tensor, pixels: Tensor) -> Tensor:
        return logits.new_empty(logits.shape[0], dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)

    def fake_log_prob_and_gradient(logits: Tensor, pixels: Tensor, *, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        return fake_log_prob(logits, pixels), logits.new_empty(logits.shape)

    def fake_binarize(pixels: Tensor, _key: Tensor, *, row_offset: int = 0) -> Tensor:
        check_known(pixels.shape[0], row_offset)
        return pixels.new_empty(pixels.shape)

    def fake_take_pixels(
        images: Tensor, rows: Tensor, _key: Tensor | None = None, *, row_offset: int = 0
    ) -> tuple[Tensor, Tensor]:
        check_known(rows.shape[0], row_offset)
        shape = (rows.shape[0], images.shape[1])
        return images.new_empty(shape), images.new_empty(shape, dtype=torch.float32)

    torch.library.register_fake("vae_ext::bernoulli_log_prob", fake_log_prob)
    torch.library.register_fake("vae_ext::bernoulli_log_prob_backward", lambda _g, logits, _p: logits.new_empty(logits.shape))
    torch.library.register_fake("vae_ext::bernoulli_log_prob_and_gradient", fake_log_prob_and_gradient)
    torch.library.register_fake("vae_ext::binarize", fake_binarize)
    torch.library.register_fake("vae_ext::take_pixels", fake_take_pixels)
    torch.library.register_autograd("vae_ext::bernoulli_log_prob", _LogProb.backward, setup_context=_save)


with contextlib.suppress(BackendError):
    if compiled_module() is not None:
        _register()
