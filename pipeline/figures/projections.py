"""Codes in a plane: of their principal components, or such that neighbours stay neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_CODES = 10  # fewer have no neighbourhoods
ITERATIONS = 500  # of t-SNE: of 1,000 codes of MNIST, twice as many take twice the time and lower its loss by 1%


@dataclass(frozen=True)
class PrincipalPlane:
    """The plane through codes' mean along which they vary most.

    Attributes:
        centre: [latent_dim].
        directions: [2, latent_dim], of length 1 and at right angles.
        shares: of the codes' variance, along each.
    """

    centre: Tensor
    directions: Tensor
    shares: list[float]

    def coordinates(self, mu: Tensor) -> Tensor:
        """Of codes [N, latent_dim]: [N, 2]."""
        return (mu - self.centre) @ self.directions.T


def principal_plane(mu: Tensor) -> PrincipalPlane:
    """Of codes [N, latent_dim], N and latent_dim at least 2."""
    centre = mu.mean(dim=0)
    _, s, v = torch.linalg.svd(mu - centre, full_matrices=False)
    # A component's sign is arbitrary: let its largest weight be positive, so that two runs' pictures compare.
    v = v * v.gather(1, v.abs().argmax(dim=1, keepdim=True)).sign()
    return PrincipalPlane(centre, v[:2], (s[:2].square() / s.square().sum()).tolist())


def neighbour_plane(mu: Tensor) -> Tensor | None:
    """Codes [N, latent_dim] in a plane by t-SNE, [N, 2], the furthest at 1; None, if they are few or all the same.

    The same codes give the same bits, whatever the number of threads.
    """
    if len(mu) < MIN_CODES or not (mu != mu[0]).any():
        return None
    # Not above: it imports for a second, and only the page needs it.
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # It starts at the principal components, so no seed changes what it finds. Threads may, by the order of its sums.
    tsne = TSNE(perplexity=min(30, (len(mu) - 1) / 3), max_iter=ITERATIONS, init="pca", random_state=0)
    with threadpool_limits(1):
        points = torch.from_numpy(tsne.fit_transform(mu.cpu().numpy()))
    points -= (points.amin(0) + points.amax(0)) / 2
    return points / points.abs().max()
