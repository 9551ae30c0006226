"""A hundred million draws: no statistic beyond what chance allows.

Each statistic is compared with its distribution under the null. The bound is five standard errors, or a p-value of 1e-6: over
the some fifty statistics below, a right generator fails less than once in ten thousand runs, and these runs have one key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vae_ext import noise_key, reparam_kl

SIGMAS = 5.0
ROWS, DIM, PARTS = 10_000, 1_000, 10


def draws(seed: int = 1, step: int = 0, samples: int = 1, rows: int = ROWS, dim: int = DIM) -> Tensor:
    """[samples, rows, dim] normals of the kernel, which the other tests show to be the reference's bits."""
    zeros = torch.zeros(rows, dim)
    return reparam_kl(zeros, zeros, noise_key(seed, step), num_samples=samples)[0]


@pytest.fixture(scope="module")
def parts() -> Iterator[list[Tensor]]:
    """10^8 draws, in ten steps of one seed."""
    yield [draws(step=step)[0] for step in range(PARTS)]


def test_moments_of_a_hundred_million_draws(module: ModuleType, parts: list[Tensor]) -> None:
    n = PARTS * ROWS * DIM
    sums = torch.stack([torch.stack([part.double().pow(p).sum() for p in (1, 2, 3, 4)]) for part in parts]).sum(dim=0) / n
    # Variances of x, x^2, x^3 - 3x and x^4 - 6x^2 of a standard normal: mean, variance, skewness, excess kurtosis.
    statistics = {
        "mean": (sums[0], 1.0),
        "variance": (sums[1] - 1, 2.0),
        "skewness": (sums[2] - 3 * sums[0], 6.0),
        "excess kurtosis": (sums[3] - 6 * sums[1] + 3, 24.0),
    }
    for name, (value, variance) in statistics.items():
        assert abs(value) < SIGMAS * math.sqrt(variance / n), name


def test_distribution_by_kolmogorov_smirnov_and_chi_squared(module: ModuleType, parts: list[Tensor]) -> None:
    n, bins = PARTS * ROWS * DIM, 65_536
    counts = torch.zeros(bins, dtype=torch.float64)
    for part in parts:
        uniform = torch.special.ndtr(part.double().flatten())
        counts += torch.bincount((uniform * bins).long().clamp(max=bins - 1), minlength=bins)
    # Kolmogorov's distribution: P(sqrt(n) D > d) < 2 exp(-2 d^2); 2.7 is a p-value of 1e-6. D at the bins' edges.
    distance = (counts.cumsum(0) / n - torch.arange(1, bins + 1) / bins).abs().max().item()
    assert math.sqrt(n) * distance < 2.7
    # Chi-squared of 65,535 degrees of freedom is normal to well within five standard deviations.
    chi_squared = ((counts - n / bins).square() / (n / bins)).sum().item()
    assert abs(chi_squared - (bins - 1)) < SIGMAS * math.sqrt(2 * (bins - 1))


def test_tails_are_there_and_end_where_32_bits_end(module: ModuleType, parts: list[Tensor]) -> None:
    n = PARTS * ROWS * DIM
    for threshold in (3.0, 4.0, 5.0):
        expected = n * math.erfc(threshold / math.sqrt(2))
        found = sum(int((part.abs() > threshold).sum()) for part in parts)
        assert abs(found - expected) < SIGMAS * math.sqrt(expected), threshold
    assert max(float(part.abs().max()) for part in parts) <= math.sqrt(-2 * math.log(2**-33)) + 1e-5


def assert_independent(a: Tensor, b: Tensor, what: str) -> None:
    """No correlation, of the values or of their squares."""
    a, b = a.double().flatten(), b.double().flatten()
    for name, x, y in (("values", a, b), ("squares", (a * a - 1) / math.sqrt(2), (b * b - 1) / math.sqrt(2))):
        assert abs((x * y).mean().item()) < SIGMAS / math.sqrt(len(x)), f"{what}, {name}"


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 64])
def test_no_correlation_between_dims_rows_and_samples(module: ModuleType, parts: list[Tensor], lag: int) -> None:
    assert_independent(parts[0][:, :-lag], parts[0][:, lag:], f"dim lag {lag}")
    assert_independent(parts[1][:-lag], parts[1][lag:], f"row lag {lag}")
    samples = draws(samples=100, rows=100)
    assert_independent(samples[:-lag], samples[lag:], f"sample lag {lag}")


def test_no_correlation_between_steps_and_neighbouring_seeds(module: ModuleType, parts: list[Tensor]) -> None:
    for lag in (1, 2, 8):
        assert_independent(parts[0], parts[lag], f"step lag {lag}")
    for seed in (0, 2, 1 + (1 << 31), 1 + (1 << 32)):
        assert_independent(parts[0], draws(seed=seed)[0], f"seeds 1 and {seed}")
