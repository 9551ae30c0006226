"""The priors p(z) that a posterior is compared with: the standard normal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config.params import Model
from vae_ext import standard_normal


class StandardNormal(nn.Module):
    """N(0, 1) in every dimension, whatever the image's class. Others are its subclasses."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def operands(self, labels: Tensor | None) -> dict[str, Tensor]:
        """What the operators of ``vae_ext`` are given of it, by the names of their arguments; N(0, 1) is their default."""
        return {}

    def mean_and_sigma(self, like: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of each code, [..., latent_dim] like the tensor, whose images have these classes."""
        return torch.zeros_like(like), torch.ones_like(like)

    def sample(self, key: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
        """So many z, [count, latent_dim]. The same key gives the same on every device."""
        return standard_normal(key, count, self.latent_dim)


def prior_of(params: Model) -> StandardNormal:
    """The one that the parameters name."""
    return StandardNormal(params.latent_dim)
