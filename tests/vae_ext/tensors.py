"""Inputs for the operators, and comparisons of results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vae_ext import bernoulli_log_prob, reparam_kl, reparam_log_ratio
from vae_ext.autograd import Output

SHAPES = [(1, 1), (3, 2), (128, 20), (41, 33), (7, 401), (5, 1024), (3, 1271), (2, 5000)]
# Relative to the largest value, or to the summands of order one: the rounding error of the dtype, with room for a few
# operations.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 5e-15, torch.bfloat16: 8e-3, torch.float16: 1e-3}
COPIES = {"aten::cat", "aten::copy_", "aten::clone", "aten::contiguous", "aten::slice_backward"}
DIMS = [1, 2, 33, 401, 784, 1271, 5000]


def inputs(rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 10_007 + dim)
    mu, logvar = torch.randn(2, rows, dim, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
    return mu.requires_grad_(), logvar.requires_grad_()


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, terms: Tensor | None = None) -> None:
    """terms: of a sum over the rows, what is added, which may cancel."""
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    error = (actual.double() - expected.double()).abs().max()
    size = expected.double().abs() if terms is None else terms.double().abs().sum(0)
    assert error <= TOLERANCE[dtype] * max(1.0, size.max().item()), error


def assert_same_bits(a: Tensor | Iterable[Tensor], b: Tensor | Iterable[Tensor]) -> None:
    """Compares one tensor or several. Stricter than ``torch.equal``: distinguishes 0 and -0, and NaN equals itself.

    On a GPU all NaNs are equal: for a float64 sum of several NaNs, the compiler chooses whose bits it has.
    """
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        for each_a, each_b in zip(a, b, strict=True):
            assert_same_bits(each_a, each_b)
        return
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    of_size = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    a, b = (t.contiguous() if t.device.type == "cpu" else torch.where(t.isnan(), torch.nan, t) for t in (a, b))
    assert torch.equal(a.view(of_size), b.view(of_size))


def call(output: Output, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    if output == Output.LOG_RATIO:
        return reparam_log_ratio(*args, **options)
    return reparam_kl(*args, kl_reduction="sum" if output == Output.KL_SUM else "none", **options)


def random_bytes(rows: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns bytes, every second one black or white, as in images, and the others including every value."""
    generator = torch.Generator().manual_seed(rows * 10_007 + dim)
    grey, kind = torch.randint(256, (2, rows, dim), generator=generator)
    return torch.where(kind < 64, 0, torch.where(kind < 128, 255, grey)).to(device=device, dtype=torch.uint8)


def random_logits(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return 4 * torch.randn(shape, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)


def value_and_gradient(logits: Tensor, pixels: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    log_prob = bernoulli_log_prob(logits, pixels)
    return log_prob.detach(), torch.autograd.grad(log_prob, logits, upstream)[0]


def some_rows(count: int, images: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns unsorted row indices, including the first and the last image and, if ``count > images``, repetitions."""
    rows = torch.randint(images, (count,), generator=torch.Generator().manual_seed(count))
    rows[:2] = torch.tensor([images - 1, 0])[:count]
    return rows.to(device)
