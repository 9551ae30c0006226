"""Projects codes to a plane: by principal components, or by t-SNE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PERPLEXITY = 30.0  # roughly the number of neighbours of a code
MIN_CODES = 250  # t-SNE uses three times PERPLEXITY neighbours: with fewer codes, nearly half of all
ITERATIONS = 500  # for 1,000 codes of MNIST, twice as many take twice the time and lower the loss by 1%


@dataclass(frozen=True)
class PrincipalPlane:
    """The plane through the codes' mean with the largest variance.

    Attributes:
        centre: [latent_dim].
        directions: [2, latent_dim], orthonormal.
        shares: fraction of the codes' variance along each direction.
    """

    centre: Tensor
    directions: Tensor
    shares: list[float]

    def coordinates(self, mu: Tensor) -> Tensor:
        """Projects codes [N, latent_dim] to the plane, [N, 2]."""
        return (mu - self.centre) @ self.directions.T


def principal_plane(mu: Tensor) -> PrincipalPlane:
    """Fits the plane to codes [N, latent_dim], N and latent_dim at least 2; shares are NaN if all codes are equal."""
    centre = mu.mean(dim=0)
    _, s, v = torch.linalg.svd(mu - centre, full_matrices=False)
    # A component's sign is arbitrary: make its largest weight positive, so that pictures of two runs are comparable.
    v = v * v.gather(1, v.abs().argmax(dim=1, keepdim=True)).sign()
    return PrincipalPlane(centre, v[:2], (s[:2].square() / s.square().sum()).tolist())


def tsne_plane(mu: Tensor) -> Tensor | None:
    """Projects codes [N, latent_dim], not all equal, to [N, 2] by t-SNE, scaled to [-1, 1]; None if there are too few.

    Equal codes give equal bits, whatever the number of threads.
    """
    if len(mu) < MIN_CODES:
        return None
    # Imported here since it takes a second, and only the page needs it.
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # With PCA initialisation the result does not depend on a seed. It could depend on the order of sums in several threads.
    tsne = TSNE(perplexity=PERPLEXITY, max_iter=ITERATIONS, init="pca", random_state=0)
    with threadpool_limits(1):
        points = torch.from_numpy(tsne.fit_transform(mu.cpu().numpy()))
    points -= (points.amin(0) + points.amax(0)) / 2
    return points / points.abs().max()
