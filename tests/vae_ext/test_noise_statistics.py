"""Statistics of a hundred million draws are within chance.

Each statistic is compared with its distribution under the null hypothesis. The bound is five standard errors, or a p-value of
1e-6: with about fifty statistics, a correct generator fails less than once in ten thousand keys; these tests have fixed keys.
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
    """Returns normals of the kernel, [samples, rows, dim]; other tests show that they equal the reference's bits."""
    zeros = torch.zeros(rows, dim)
    return reparam_kl(zeros, zeros, noise_key(seed, step), num_samples=samples)[0]


@pytest.fixture(scope="module")
def parts() -> Iterator[list[Tensor]]:
    """10^8 draws, in ten steps of one seed."""
    yield [draws(step=step)[0] for step in range(PARTS)]


def chunks(parts: list[Tensor]) -> Iterator[Tensor]:
    """Yields a million draws at a time, so that memory is reused."""
    return (chunk for part in parts for chunk in part.flatten().split(1_000_000))


def test_moments_of_a_hundred_million_draws_are_normal(module: ModuleType, parts: list[Tensor]) -> None:
    n = PARTS * ROWS * DIM
    sums = torch.zeros(4, dtype=torch.float64)
    for chunk in chunks(parts):
        x = chunk.double()
        square = x * x
        sums += torch.stack([x.sum(), square.sum(), square.dot(x), square.dot(square)])
    sums /= n
    # Variances of x, x^2, x^3 - 3x and x^4 - 6x^2 for a standard normal: mean, variance, skewness, excess kurtosis.
    statistics = {
        "mean": (sums[0], 1.0),
        "variance": (sums[1] - 1, 2.0),
        "skewness": (sums[2] - 3 * sums[0], 6.0),
        "excess kurtosis": (sums[3] - 6 * sums[1] + 3, 24.0),
    }
    for name, (value, variance) in statistics.items():
        assert abs(value) < SIGMAS * math.sqrt(variance / n), name


def test_distribution_passes_kolmogorov_smirnov_and_chi_squared(module: ModuleType, parts: list[Tensor]) -> None:
    n, bins = PARTS * ROWS * DIM, 65_536
    counts = torch.zeros(bins, dtype=torch.float64)
    for chunk in chunks(parts):
        uniform = torch.special.ndtr(chunk.double())
        counts += torch.bincount((uniform * bins).long().clamp(max=bins - 1), minlength=bins)
    # Kolmogorov's distribution: P(sqrt(n) D > d) < 2 exp(-2 d^2); 2.7 is a p-value of 1e-6. D at the edges of the bins.
    distance = (counts.cumsum(0) / n - torch.arange(1, bins + 1) / bins).abs().max().item()
    assert math.sqrt(n) * distance < 2.7
    # Chi-squared with 65,535 degrees of freedom is normal well beyond five standard deviations.
    chi_squared = ((counts - n / bins).square() / (n / bins)).sum().item()
    assert abs(chi_squared - (bins - 1)) < SIGMAS * math.sqrt(2 * (bins - 1))


def test_tails_extend_to_the_limit_of_32_bits(module: ModuleType, parts: list[Tensor]) -> None:
    n = PARTS * ROWS * DIM
    tails = torch.cat([part[part.abs() > 3.0].abs() for part in parts])
    for threshold in (3.0, 4.0, 5.0):
        expected = n * math.erfc(threshold / math.sqrt(2))
        found = int((tails > threshold).sum())
        assert abs(found - expected) < SIGMAS * math.sqrt(expected), threshold
    assert float(tails.max()) <= math.sqrt(-2 * math.log(2**-33)) + 1e-5


def and_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns values, and their squares scaled to mean 0 and variance 1."""
    return x, (x * x - 1) / math.sqrt(2)


def assert_uncorrelated(x: Tensor, y: Tensor, what: str) -> None:
    assert abs((x * y).mean(dtype=torch.float64).item()) < SIGMAS / math.sqrt(x.numel()), what


@pytest.fixture(scope="module")
def grids(parts: list[Tensor]) -> list[tuple[str, tuple[Tensor, Tensor]]]:
    """Draws with the named dimension last, and their squares."""
    samples = draws(samples=100, rows=100).flatten(1)
    named = (("dim", parts[0]), ("row", parts[1].T), ("sample", samples.T))
    return [(name, and_squares(part)) for name, part in named]


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 64])
def test_no_correlation_between_dims_rows_and_samples(
    module: ModuleType, grids: list[tuple[str, tuple[Tensor, Tensor]]], lag: int
) -> None:
    for name, values_and_squares in grids:
        for x in values_and_squares:
            assert_uncorrelated(x[:, :-lag], x[:, lag:], f"{name} lag {lag}")


def test_no_correlation_between_steps_and_neighbouring_seeds(module: ModuleType, parts: list[Tensor]) -> None:
    others = [(f"step lag {lag}", parts[lag]) for lag in (1, 2, 8)]
    others += [(f"seeds 1 and {seed}", draws(seed=seed)[0]) for seed in (0, 2, 1 + (1 << 31), 1 + (1 << 32))]
    first = and_squares(parts[0])
    for what, other in others:
        for x, y in zip(first, and_squares(other), strict=True):
            assert_uncorrelated(x, y, what)
