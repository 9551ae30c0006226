"""Probes whether codes of a class lie together: predicts an image's class from its nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 10
CODE_BATCH = 1000


@torch.no_grad()
def nearest_neighbours(known: Tensor, classes: Tensor, codes: Tensor) -> Tensor:
    """Returns the most frequent class among each code's nearest known codes (of equals, the lowest).

    Args:
        known: [M, latent_dim], with their classes, [M] integers.
        codes: [N, latent_dim].

    Returns:
        [N] classes.
    """
    count = min(NEIGHBOURS, len(known))
    nearest = (torch.cdist(batch, known).topk(count, largest=False).indices for batch in codes.split(CODE_BATCH))
    return torch.cat([most_frequent(classes[rows]) for rows in nearest])


def most_frequent(classes: Tensor) -> Tensor:
    """Returns the most frequent class in each row of [N, neighbours] (of equals, the lowest) without a table of all classes."""
    votes = (classes[:, :, None] == classes[:, None, :]).sum(2)
    return classes.where(votes == votes.amax(1, keepdim=True), classes.amax()).amin(1)
