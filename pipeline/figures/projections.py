"""Codes in a plane: of their principal components, or by t-SNE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PERPLEXITY = 30.0  # about as many neighbours has a code
MIN_CODES = 250  # t-SNE looks at three times as many: of fewer codes, at nearly half of them
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
    """Of codes [N, latent_dim], N and latent_dim at least 2; shares are NaN, if all codes are the same."""
    centre = mu.mean(dim=0)
    _, s, v = torch.linalg.svd(mu - centre, full_matrices=False)
    # A component's sign is arbitrary: let its largest weight be positive, so that two runs' pictures compare.
    v = v * v.gather(1, v.abs().argmax(dim=1, keepdim=True)).sign()
    return PrincipalPlane(centre, v[:2], (s[:2].square() / s.square().sum()).tolist())


def tsne_plane(mu: Tensor) -> Tensor | None:
    """Codes [N, latent_dim] in a plane by t-SNE, [N, 2], the furthest at 1; None, if they are few. Not all may be the same.

    The same codes give the same bits, whatever the number of threads.
    """
    if len(mu) < MIN_CODES:
        return None
    # Not above: it imports for a second, and only the page needs it.
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # It starts at the principal components, so no seed changes what it finds. Threads may, by the order of its sums.
    tsne = TSNE(perplexity=PERPLEXITY, max_iter=ITERATIONS, init="pca", random_state=0)
    with threadpool_limits(1):
        points = torch.from_numpy(tsne.fit_transform(mu.cpu().numpy()))
    points -= (points.amin(0) + points.amax(0)) / 2
    return points / points.abs().max()
