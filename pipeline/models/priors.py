"""The priors p(z): a standard normal distribution, or a learned normal one for each class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.params import Model
from vae_ext import standard_normal


class Prior(nn.Module):
    """Interface of a prior over codes of ``latent_dim`` dimensions; ``labels`` are class numbers, int64 [B]."""

    def operands(self, like: Tensor, labels: Tensor | None) -> dict[str, Any]:
        """Returns the prior as keyword arguments of the operators in ``vae_ext``, of the dtype of ``like``."""
        raise NotImplementedError

    def sample(self, key: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
        """Samples z [count, latent_dim]; equal keys give equal samples on every device."""
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, 1) in every dimension."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def operands(self, like: Tensor, labels: Tensor | None) -> dict[str, Any]:
        return {}  # the operators' default

    def sample(self, key: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
        return standard_normal(key, count, self.latent_dim)


class ClassPrior(Prior):
    """p(z|y) = N(mu_y, sigma_y^2), diagonal, learned with the weights; it starts as N(0, 1) for each class y.

    Args:
        classes: number of classes.
        latent_dim: of z.
    """

    def __init__(self, classes: int, latent_dim: int) -> None:
        super().__init__()
        # mu and logvar as one parameter with three dimensions: Muon updates matrices, and this is a table.
        self.tables = nn.Parameter(torch.zeros(2, classes, latent_dim))

    def operands(self, like: Tensor, labels: Tensor | None) -> dict[str, Any]:
        mu, logvar = self._of(labels)
        return {"prior_mu": mu.to(like.dtype), "prior_logvar": logvar.to(like.dtype)}

    def sample(self, key: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
        mu, logvar = self._of(labels)
        z: Tensor = mu + torch.exp(logvar / 2) * standard_normal(key, *mu.shape)
        return z

    def _of(self, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns mu and logvar of each image's class, [B, latent_dim] each."""
        if labels is None:
            raise ValueError("label: expected the class of each image, since each class has a prior, got none")
        mu, logvar = self.tables
        # Not by indexing, whose gradient is summed in any order on several threads.
        return F.embedding(labels, mu), F.embedding(labels, logvar)


def prior_of(params: Model, classes: int) -> Prior:
    """Builds the prior that the parameters specify."""
    return ClassPrior(classes, params.latent_dim) if params.prior == "label" else StandardNormal(params.latent_dim)
