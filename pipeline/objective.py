"""What is maximised, and what is reported: the ELBO and its two terms, and a tighter bound by importance weighting.

All in nats an image: summed over pixels and latent dimensions, never averaged over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from pipeline import likelihood
from pipeline.data import as_float
from pipeline.model import VAE
from vae_ext import noise_key, reparam_kl_packed, reparam_log_ratio


class Stream(IntEnum):
    """Uses of the noise that must not share it: each has its own half of the 64-bit seed."""

    TRAIN = 0
    VALIDATE = 1
    EVALUATE = 2
    IMPORTANCE = 3
    PRIOR = 4
    ORDER = 5
    BINARIZE_TRAIN = 6
    BINARIZE_VALIDATE = 7
    BINARIZE_TEST = 8


def stream_key(seed: int, stream: Stream, device: torch.device, step: int = 0) -> Tensor:
    """The noise key of a use: the parameters' seed below, the stream above."""
    return noise_key(seed + (int(stream) << 32), step, device=device)


@dataclass(frozen=True)
class Terms:
    """The ELBO's two terms for each image, [B]."""

    distortion: Tensor  # -E log p(x|z)
    rate: Tensor  # KL(q(z|x) || p(z))

    @property
    def elbo(self) -> Tensor:
        """log p(x) >= elbo = -(distortion + rate), whatever beta was trained with."""
        return -(self.distortion + self.rate)

    def loss(self, beta: float) -> Tensor:
        """The batch's mean of distortion + beta rate (Higgins et al.: beta-VAE. 2017); the negative ELBO at beta 1."""
        return (self.distortion + beta * self.rate).mean()


def elbo_terms(model: VAE, pixels: Tensor, key: Tensor, row_offset: int = 0) -> Terms:
    """Distortion by one sample of z, rate in closed form (Kingma, Welling: Auto-Encoding Variational Bayes. 2014).

    Args:
        pixels: [B, D], bytes.
        key: of the noise.
        row_offset: the index of the first image, so that its noise does not depend on how the data are cut into batches.
    """
    z, rate = reparam_kl_packed(model.posterior(as_float(pixels).to(model.bound.dtype)), key, row_offset=row_offset)
    return Terms(-likelihood.log_prob(model.decode(z), pixels), rate)


def log_likelihood_bound(model: VAE, pixels: Tensor, key: Tensor, samples: int, row_offset: int = 0) -> Tensor:
    """log p(x) >= log 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x), z_s from q(z|x); tight as S grows.

    Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders. 2016. Samples are decoded one at a time into a running
    log-sum-exp, so of all that is computed only z, [S, B, latent_dim], grows with S.

    Args:
        pixels: [B, D], bytes.
        key: of the noise.
        samples: S.

    Returns:
        [B], in nats.
    """
    mu, logvar = model.encode(as_float(pixels).to(model.bound.dtype))
    total = mu.new_full(mu.shape[:1], -math.inf)
    for z, log_ratio in zip(*reparam_log_ratio(mu, logvar, key, num_samples=samples, row_offset=row_offset), strict=True):
        total = torch.logaddexp(total, likelihood.log_prob(model.decode(z), pixels) + log_ratio)
    return total - math.log(samples)
