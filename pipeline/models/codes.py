"""Codes of images, in batches, and the way from one code to another."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.prepared import as_float
from pipeline.models.vae import VAE

ENCODING_BATCH = 1000


@torch.no_grad()
def posteriors(model: VAE, pixels: Tensor, batch_size: int) -> Tensor:
    """The posteriors of images [N, D], bytes, as :meth:`VAE.posterior` gives them."""
    return torch.cat([model.posterior(as_float(batch)) for batch in pixels.split(batch_size)])


def posterior_means(model: VAE, pixels: Tensor) -> Tensor:
    """mu of images [N, D], bytes: [N, latent_dim]."""
    return posteriors(model, pixels, ENCODING_BATCH)[:, : model.latent_dim].contiguous()


def line_between(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """So many codes on the straight line from one code [latent_dim] to another, both included: [steps, latent_dim]."""
    share = torch.linspace(0, 1, steps, device=a.device)[:, None]
    return (1 - share) * a + share * b
