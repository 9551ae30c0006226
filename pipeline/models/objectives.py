"""The training objectives and the reported ELBO with its two terms; also the importance-weighted bound.

All in nats per image: sums over pixels and latent dimensions, not means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.params import Objective
from pipeline.data.tensors import as_float
from pipeline.models.vae import VAE
from vae_ext import reparam_kl


@dataclass(frozen=True)
class Terms:
    """The ELBO's two terms for each image, [B]."""

    distortion: Tensor  # -E log p(x|z)
    rate: Tensor  # KL(q(z|x) || p(z)); 0 for an autoencoder, which has none

    @property
    def elbo(self) -> Tensor:
        """log p(x) >= elbo = -(distortion + rate), for any beta in training."""
        return -(self.distortion + self.rate)

    def loss(self, beta: float | Tensor) -> Tensor:
        """The batch's mean of distortion + beta rate (Higgins et al.: beta-VAE. 2017); the negative ELBO at beta 1."""
        return (self.distortion + beta * self.rate).mean()


def elbo_terms(model: VAE, pixels: Tensor, key: Tensor, row_offset: int = 0, labels: Tensor | None = None) -> Terms:
    """Computes distortion with one sample of z, rate in closed form (Kingma, Welling: Auto-Encoding Variational Bayes. 2014).

    Args:
        pixels: [B, D], bytes.
        key: of the noise.
        row_offset: the index of the first image, so that its noise does not depend on the batch size.
        labels: the images' classes, [B], if the model is conditional.
    """
    posterior = model.posterior(as_float(pixels).to(model.bound.dtype), labels)
    z, rate = model.draw_with_kl(posterior, key, labels, row_offset=row_offset)
    return Terms(-model.likelihood.log_prob(model.decode(z, labels), pixels), rate)


def objective_terms(
    model: VAE,
    pixels: Tensor,
    x: Tensor,
    key: Tensor,
    beta: float | Tensor,
    objective: Objective,
    samples: int,
    row_offset: int = 0,
    batch_mean: Callable[[Tensor], Tensor] = lambda rows: rows.mean(0),
    labels: Tensor | None = None,
) -> tuple[Tensor, Terms]:
    """Computes the loss with ``samples`` samples of z, and the ELBO's terms with the same samples.

    - ``elbo``: distortion + beta rate. The rate in closed form or, with ``kl: monte_carlo``, as the mean over the samples of
      log q(z|x) - log p(z): Kingma and Welling's two estimators. With ``free_bits`` lambda, a dimension's rate counts as lambda
      if its mean over the batch is smaller (Kingma et al.: Improved Variational Inference with Inverse Autoregressive Flow.
      2016).
    - ``iwae``: -log of the mean over samples of p(x|z) (p(z) / q(z|x))^beta (Burda, Grosse, Salakhutdinov: Importance Weighted
      Autoencoders. 2016, at beta 1).
    - autoencoder: distortion + ``sparsity`` times the code's L1 norm.

    Args:
        pixels: [B, D], bytes: the decoder's target.
        x: [B, D], the encoder's input: the pixels in [0, 1], possibly corrupted.
        key: of the noise.
        beta: the weight of the rate.
        objective: the section of parameters.
        samples: of z, per image.
        row_offset: of the noise.
        batch_mean: the mean over the rows of the whole batch, of which these may be a part.
        labels: the images' classes, [B], if the model is conditional.

    Returns:
        the loss of each image, [B], and the terms.
    """
    posterior = model.posterior(x, labels)
    if model.is_deterministic:
        terms = Terms(-model.likelihood.log_prob(model.decode(posterior, labels), pixels), posterior.new_zeros(len(x)))
        return terms.distortion + objective.sparsity * posterior.abs().sum(-1), terms

    if objective.bound == "iwae" or objective.kl == "monte_carlo":
        z, log_ratio = model.draw_with_log_ratio(posterior, key, labels, num_samples=samples, row_offset=row_offset)
        rate = -log_ratio.mean(0)
    else:
        free = objective.free_bits > 0
        z, kl = model.draw_with_kl(posterior, key, labels, num_samples=samples, row_offset=row_offset, by_dimension=free)
        rate = kl.sum(-1) if free else kl
    log_p = model.likelihood.log_prob(model.decode(z, labels), pixels)
    terms = Terms(-log_p.mean(0), rate)
    if objective.bound == "iwae":
        return math.log(samples) - torch.logsumexp(log_p + beta * log_ratio, 0), terms
    if objective.free_bits > 0:
        rate = torch.where(batch_mean(kl.detach()) > objective.free_bits, kl, objective.free_bits).sum(-1)
    return terms.distortion + beta * rate, terms


def corrupt(x: Tensor, key: Tensor, noise: float, dropout: float, row_offset: int = 0) -> Tensor:
    """Adds Gaussian noise of standard deviation ``noise``, and sets a fraction ``dropout`` of the pixels to 0.

    Vincent et al.: Extracting and Composing Robust Features with Denoising Autoencoders. 2008.
    """
    zeros = torch.zeros_like(x)
    (normal, other), _ = reparam_kl(zeros, zeros, key, num_samples=2, row_offset=row_offset)
    # A standard normal number is below its p-quantile with probability p.
    kept = other >= torch.special.ndtri(torch.tensor(dropout)).item()
    corrupted: Tensor = (x + noise * normal) * kept
    return corrupted
