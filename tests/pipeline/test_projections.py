"""Projections of codes to a plane."""

from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.evaluation.knn_probe import nearest_neighbours
from pipeline.figures.projections import MIN_CODES, principal_plane, tsne_plane


@pytest.mark.parametrize("threads", [1, 2])
def test_tsne_keeps_neighbours_and_does_not_depend_on_the_number_of_threads(threads: int) -> None:
    torch.manual_seed(0)
    cluster = torch.arange(MIN_CODES) % 3  # which no two dimensions separate
    mu = torch.randn(MIN_CODES, 6) + 8 * torch.eye(6)[cluster]
    points = tsne_plane(mu)
    with threadpool_limits(threads):
        again = tsne_plane(mu)
    assert points is not None
    assert again is not None
    assert torch.equal(points, again)
    assert points.abs().max() == 1
    assert (nearest_neighbours(points, cluster, points) == cluster).all()


def test_too_few_codes_have_no_tsne_plane() -> None:
    assert tsne_plane(torch.randn(MIN_CODES - 1, 3)) is None


def test_codes_vary_most_along_the_principal_plane() -> None:
    mu = torch.randn(500, 4, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1, 3.0]) + 7
    plane = principal_plane(mu)
    torch.testing.assert_close(plane.directions @ plane.directions.T, torch.eye(2, dtype=torch.float64))
    assert plane.directions.abs().argmax(1).tolist() == [1, 3]
    variances = plane.coordinates(mu).var(0)
    torch.testing.assert_close(variances / mu.var(0).sum(), torch.tensor(plane.shares, dtype=torch.float64))
