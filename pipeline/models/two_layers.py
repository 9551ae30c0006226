"""A VAE of two stochastic layers: x <- z1 <- z2 (Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders. 2016).

    q(z1, z2|x) = q(z1|x) q(z2|z1)          p(x, z1, z2) = p(x|z1) p(z1|z2) p(z2),   p(z2) = N(0, 1)

The code z is z1, the decoder's input; p(z1|z2) replaces the prior of z1, and is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from pipeline.config.params import Model
from pipeline.models.likelihoods import at_least_float32
from pipeline.models.networks import ACTIVATIONS, linear_layers, xavier_
from pipeline.models.vae import VAE
from vae_ext import reparam_kl, standard_normal

SECOND = 1 << 48  # added to the seed for the noise of the second layer


class TwoLayerVAE(VAE):
    """A VAE with a second layer of latent variables, specified by ``model.top``.

    Args:
        image_shape, params, classes: as in :class:`VAE`.
    """

    definitions: ClassVar = {
        "rate": "KL(q(z1, z2|x) || p(z1, z2)): of z2 in closed form, of z1 by its sample",
        "nll": "-log 1/S sum p(x|z1) p(z1|z2) p(z2) / (q(z1|x) q(z2|z1)) over S samples of q(z1, z2|x), "
        "in expectation an upper bound of -log p(x)",
        # Given z1, z2 is independent of the image.
        "mutual_information": "I(n; z1) = I(n; z1, z2) of an image's index n and its z1, at most log N: "
        "the part of the rate that tells images apart",
        "marginal_kl": "KL(q(z1, z2) || p(z1, z2)), q(z1, z2) the mean of all posteriors: the other part of the rate",
    }
    second: Tensor

    def __init__(self, image_shape: Sequence[int], params: Model, classes: int) -> None:
        super().__init__(image_shape, params, classes)
        assert params.top is not None
        activation, hidden, self.top_dim = ACTIVATIONS[params.activation], params.top.hidden, params.top.latent_dim
        self.top_encoder = nn.Sequential(*linear_layers([self.latent_dim, *hidden, 2 * self.top_dim], activation))
        self.top_decoder = nn.Sequential(*linear_layers([self.top_dim, *reversed(hidden), 2 * self.latent_dim], activation))
        xavier_(self.top_encoder)
        xavier_(self.top_decoder)
        self.logvar_bound = params.logvar_bound
        self.register_buffer("second", torch.tensor([SECOND, 0]), persistent=False)
        self.has_standard_prior = False  # p(z1) is the mean of p(z1|z2) over z2

    def draw_with_kl(
        self,
        posterior: Tensor,
        key: Tensor,
        labels: Tensor | None = None,
        *,
        num_samples: int | None = None,
        row_offset: int = 0,
        by_dimension: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`VAE`, with the dimensions of z1 before those of z2; the part of z1 is estimated from its samples."""
        z1, ratio, q2, _ = self._draw(posterior, key, num_samples, row_offset)
        kl = torch.cat([-ratio, torch.distributions.kl_divergence(q2, _standard(q2.loc))], -1)
        kl = kl if num_samples is None else kl.mean(0)
        return z1, kl if by_dimension else kl.sum(-1)

    def draw_with_log_ratio(
        self, posterior: Tensor, key: Tensor, labels: Tensor | None = None, *, num_samples: int, row_offset: int = 0
    ) -> tuple[Tensor, Tensor]:
        z1, ratio, q2, z2 = self._draw(posterior, key, num_samples, row_offset)
        return z1, ratio.sum(-1) + (_standard(z2).log_prob(z2) - q2.log_prob(z2)).sum(-1)

    def _draw(
        self, posterior: Tensor, key: Tensor, num_samples: int | None, row_offset: int
    ) -> tuple[Tensor, Tensor, Normal, Tensor]:
        """Samples z1, then z2 given z1.

        Returns:
            z1 [..., B, latent_dim]; log p(z1|z2) - log q(z1|x), of the same shape; q(z2|z1); z2 [..., B, top_dim].
        """
        z1, _ = super().draw_with_kl(posterior, key, num_samples=num_samples, row_offset=row_offset)
        mu, second = at_least_float32(posterior).chunk(2, dim=-1)
        q2 = self._normal(self.top_encoder(z1))
        zeros = mu.new_zeros(len(mu), self.top_dim)
        noise, _ = reparam_kl(zeros, zeros, key + self.second, num_samples=num_samples, row_offset=row_offset)
        z2 = q2.loc + q2.scale * noise
        p1, q1 = self._normal(self.top_decoder(z2)), Normal(mu, self.sigma(second), validate_args=False)
        sample = at_least_float32(z1)
        return z1, p1.log_prob(sample) - q1.log_prob(sample), q2, z2

    def _normal(self, output: Tensor) -> Normal:
        """Converts an upper network's output, mu and logvar side by side, to a normal distribution."""
        mu, logvar = at_least_float32(output).chunk(2, dim=-1)
        return Normal(mu, torch.exp(logvar.clamp(-self.logvar_bound, self.logvar_bound) / 2), validate_args=False)

    def sample_prior(self, key: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
        """Samples z2, and returns z1 sampled from p(z1|z2), [count, latent_dim]."""
        z2 = standard_normal(key, count, self.top_dim).to(self.bound.dtype)
        p1 = self._normal(self.top_decoder(z2))
        z1: Tensor = p1.loc + p1.scale * standard_normal(key + self.second, count, self.latent_dim)
        return z1

    def means(self, posterior: Tensor) -> Tensor:
        """As in :class:`VAE`: the means of z1, then those of z2 given the former."""
        mu = super().means(posterior)
        return torch.cat([mu, self._normal(self.top_encoder(mu)).loc], -1)


def _standard(like: Tensor) -> Normal:
    return Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)
