"""Mutual information, active units, KL and the probe, on posteriors and models with known answers."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline.evaluation.collapse import verdict
from pipeline.evaluation.knn_probe import NEIGHBOURS, nearest_neighbours
from pipeline.evaluation.mutual_information import ROW_BATCH, mutual_information

COUNT = 2 * ROW_BATCH + 24


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def drawn(mu: Tensor, sigma: Tensor) -> Tensor:
    return mu + sigma * torch.randn(mu.shape, generator=torch.Generator().manual_seed(3), dtype=mu.dtype)


def test_posteriors_equal_to_the_prior_have_no_mutual_information() -> None:
    mu, sigma = torch.zeros(COUNT, 4), torch.ones(COUNT, 4)
    assert mutual_information(drawn(mu, sigma), mu, sigma).abs().max() < 1e-6


@pytest.mark.parametrize("informative", [1, 3, 5])
def test_each_binary_dimension_carries_one_bit(informative: int) -> None:
    signs = torch.randint(0, 2, (COUNT, 6), generator=torch.Generator().manual_seed(2)) * 2.0 - 1
    signs[: 2**informative, :informative] = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * informative).view(
        -1, informative
    )
    mu = torch.where(torch.arange(6) < informative, signs, 0)
    sigma = torch.where(torch.arange(6) < informative, 0.01, 1.0).expand(COUNT, 6)
    found = mutual_information(drawn(mu, sigma), mu, sigma)
    # The empirical entropy of the codes; k log 2 if they were equally frequent.
    share = torch.unique(mu, dim=0, return_counts=True)[1] / COUNT
    entropy = -(share * share.log()).sum().item()
    assert entropy == pytest.approx(informative * math.log(2), abs=0.03)
    assert found.mean().item() == pytest.approx(entropy, abs=1e-5)


def test_disjoint_posteriors_identify_the_image() -> None:
    mu, sigma = normal(COUNT, 30), torch.full((COUNT, 30), 1e-4)
    found = mutual_information(drawn(mu, sigma), mu, sigma)
    torch.testing.assert_close(found, torch.full((COUNT,), math.log(COUNT)).double(), atol=1e-5, rtol=0)


def test_with_classes_the_mutual_information_is_that_within_each_class() -> None:
    mu, sigma = normal(COUNT, 3), torch.full((COUNT, 3), 0.5)
    z, labels = drawn(mu, sigma), torch.arange(COUNT) % 3
    found = mutual_information(z, mu, sigma, labels)
    for label in range(3):
        own = labels == label
        torch.testing.assert_close(found[own], mutual_information(z[own], mu[own], sigma[own]))


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_the_estimate_equals_the_definition_in_float64_even_for_small_sigma(scale: float) -> None:
    mu, sigma = 3 * normal(COUNT, 2).double(), scale * (normal(COUNT, 2).double().abs() + 0.1)
    assert_estimate_is_exact(mu, sigma, 1e-7)


def test_the_error_is_bounded_where_posteriors_far_from_zero_overlap() -> None:
    sigma = torch.full((COUNT, 2), math.exp(-10), dtype=torch.float64)  # of the smallest logvar
    mu = 3 * normal(COUNT, 2).double().sign() + sigma * normal(COUNT, 2).double()
    bound = 2 * 2**-52 * 2 * (3 / math.exp(-10)) ** 2  # twice what is stated; two dimensions
    for mean in (0, 100):  # which does not count
        assert_estimate_is_exact(mu + mean, sigma, bound)


def assert_estimate_is_exact(mu: Tensor, sigma: Tensor, tolerance: float) -> None:
    z = drawn(mu, sigma)
    posteriors = torch.distributions.Normal(mu, sigma)
    table = posteriors.log_prob(z[:, None]).sum(-1)
    expected = table.diagonal() - (table.logsumexp(1) - math.log(COUNT))
    torch.testing.assert_close(mutual_information(z, mu, sigma), expected, rtol=1e-7, atol=tolerance)


def test_the_probe_separates_distant_classes_and_guesses_between_overlapping_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    classes = torch.randint(0, 10, (4000,), generator=generator)
    apart = torch.nn.functional.one_hot(classes, 10) + 0.05 * torch.randn(4000, 10, generator=generator)
    assert torch.equal(nearest_neighbours(apart[:2000], classes[:2000], apart[2000:]), classes[2000:])
    nothing = torch.randn(4000, 10, generator=generator)
    guessed = nearest_neighbours(nothing[:2000], classes[:2000], nothing[2000:])
    assert (guessed == classes[2000:]).double().mean().item() == pytest.approx(0.1, abs=0.03)


def test_the_probe_takes_the_majority_of_the_neighbours() -> None:
    known = torch.tensor([[0.0], *[[0.1]] * (NEIGHBOURS - 1), *[[9.0]] * 30])
    classes = torch.tensor([7, *[2] * (NEIGHBOURS - 1), *[5] * 30])
    assert nearest_neighbours(known, classes, torch.tensor([[0.0], [8.0]])).tolist() == [2, 5]
    assert nearest_neighbours(known[:3], classes[:3], torch.zeros(1, 1)).tolist() == [2]


def test_the_verdict_reports_active_dimensions_and_claims_nothing_beyond_its_numbers() -> None:
    def table(active: list[bool], kl: list[float]) -> pd.DataFrame:
        return pd.DataFrame({"kl": kl, "active": active})

    both = "collapsed or untrained: "
    assert verdict(table([False, False], [3.0, 0.0])) == f"{both}0 of 2 dimensions are active, and the rate is 3 nats"
    # The default model before its first step.
    untrained = verdict(table([True] * 20, [0.039] * 20))
    assert untrained == f"{both}20 of 20 dimensions are active, and the rate is 0.78 nats"
    assert verdict(table([True, True], [3.0, 2.0])) == "2 of 2 dimensions are active and carry 100.0% of the rate, 5 nats"
    some = verdict(table([True, False], [3.0, 1.0]))
    assert some == "1 of 2 dimensions are active and carry 75.0% of the rate, 4 nats; 1 is unused"
    assert verdict(pd.DataFrame({"active": [True, False]})) == "1 of 2 dimensions of the code vary"


def test_the_probe_breaks_ties_by_the_lower_class_and_its_memory_does_not_depend_on_their_range() -> None:
    known = torch.zeros(NEIGHBOURS, 1)
    classes = torch.tensor([2**40] * 3 + [2**50] * 4 + [7] * 3).flip(0)
    assert nearest_neighbours(known, classes, torch.zeros(2, 1)).tolist() == [2**50] * 2
    classes = torch.tensor([2**40] * 2 + [2**50] * 4 + [2**45] * 4)
    assert nearest_neighbours(known, classes, torch.zeros(2, 1)).tolist() == [2**45] * 2
