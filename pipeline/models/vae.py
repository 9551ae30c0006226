"""The variational autoencoder: an encoder to mu and logvar, a decoder to a likelihood's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.config.params import Model
from pipeline.models.likelihoods import likelihood_of
from pipeline.models.networks import ACTIVATIONS, decoder, encoder, xavier_
from pipeline.models.priors import StandardNormal, prior_of
from vae_ext import reparam_kl, reparam_kl_packed, reparam_log_ratio


class VAE(nn.Module):
    """q(z|x) = N(mu, sigma^2) by the encoder, p(x|z) by the decoder, p(z) by the prior.

    With ``posterior: deterministic``, z = mu: an autoencoder.

    Other kinds of models are subclasses in separate files, selected in kinds.py. Training, evaluation, figures and commands use
    only these methods. ``labels`` are class numbers, int64 [B], or None if the model does not use them.

    Args:
        image_shape: [H, W] or [C, H, W]; inputs and outputs are flattened, [B, D].
        params: layers, latent dimension, likelihood, prior.
        classes: number of classes of the images, for a prior by class.
        context: number of additional inputs of the first linear layers of encoder and decoder.
    """

    bound: Tensor
    definitions: ClassVar[dict[str, str]] = {}  # of quantities that this kind of model computes differently
    is_conditional = False  # whether encoder and decoder take the class

    def __init__(self, image_shape: Sequence[int], params: Model, classes: int = 0, context: int = 0) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.pixels = math.prod(image_shape)
        self.latent_dim, self.scale = params.latent_dim, params.scale
        self.classes, self.uses_classes = classes, bool(params.keys_of_classes())
        self.is_deterministic = params.posterior == "deterministic"
        # Infinite for mu, and the bound of logvar: one tensor, like the encoder's output that it clamps.
        bound = torch.tensor([math.inf] if self.is_deterministic else [math.inf, params.logvar_bound])
        self.register_buffer("bound", bound.repeat_interleave(params.latent_dim), persistent=False)
        activation = ACTIVATIONS[params.activation]
        likelihood = likelihood_of(params)
        self.encoder = encoder(image_shape, params, context, len(self.bound), activation)
        inputs = params.latent_dim + context
        self.decoder = decoder(image_shape, params.decoder or params, inputs, likelihood.outputs, activation)
        self.likelihood, self.prior = likelihood, prior_of(params, classes)
        # Whether the aggregate posterior should match N(0, 1): not for an autoencoder, nor with other priors.
        self.has_standard_prior = not self.is_deterministic and isinstance(self.prior, StandardNormal)
        xavier_(self)

    @torch.no_grad()
    def init_output_bias(self, mean: Tensor) -> None:
        """Sets the output bias so that the untrained decoder's output is approximately the data's mean image [D].

        This gains a nat by the end of training: the first epochs need not learn the black border. A convolution, which has one
        bias for all pixels, starts at the mean pixel.
        """
        bias = next(layer for layer in reversed(self.decoder) if isinstance(layer, nn.Linear | nn.ConvTranspose2d)).bias
        assert bias is not None
        bias.copy_(self.likelihood.start(mean.view(len(bias) // self.likelihood.outputs, -1).mean(1)))

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, D] in [0, 1] -> mu and logvar side by side, [B, 2 latent_dim]; only mu for an autoencoder.

        logvar (or rho, with the softplus scale) is clamped here, before z, KL and gradients are computed, so that all use the
        same value.
        """
        return torch.clamp(self.encoder_output(x, labels), -self.bound, self.bound)

    def encoder_output(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The encoder's output before clamping."""
        output: Tensor = self.encoder(x)
        return output

    def means(self, posterior: Tensor) -> Tensor:
        """Returns the posterior mean of each latent dimension: [B, latent_dim], or more with a second layer."""
        return posterior[:, : self.latent_dim]

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, D] in [0, 1] -> mu [B, latent_dim], logvar [B, latent_dim] (or rho)."""
        mu, logvar = self.posterior(x, labels).chunk(2, dim=-1)
        return mu, logvar

    def sigma(self, logvar: Tensor) -> Tensor:
        """Returns the posterior's standard deviation: exp(logvar / 2), or softplus(rho)."""
        return torch.exp(logvar / 2) if self.scale == "exp" else nn.functional.softplus(logvar)

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
        """Samples z from q(z|x), and returns KL(q(z|x) || p(z)) in closed form; for an autoencoder, its code and 0.

        Args:
            posterior: in the format of :meth:`posterior`.
            key: of the noise.
            labels: the images' classes, [B], for a prior by class.
            num_samples: of z; None: one, without a dimension of its own.
            row_offset: of the noise.
            by_dimension: whether to return the KL of each latent dimension instead of the sum.

        Returns:
            z [B, latent_dim], or [num_samples, B, latent_dim]; the KL in nats, [B] or [B, latent_dim].
        """
        if self.is_deterministic:
            return posterior, posterior.new_zeros(len(posterior))
        options: dict[str, Any] = {"scale": self.scale, "num_samples": num_samples, "row_offset": row_offset}
        prior = self.prior.operands(posterior, labels)
        if not by_dimension and not prior:
            return reparam_kl_packed(posterior, key, **options)
        mu, logvar = posterior.chunk(2, dim=-1)
        return reparam_kl(mu, logvar, key, kl_reduction="none" if by_dimension else "sum", **options, **prior)

    def draw_with_log_ratio(
        self, posterior: Tensor, key: Tensor, labels: Tensor | None = None, *, num_samples: int, row_offset: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Samples z from q(z|x), [num_samples, B, latent_dim]; also returns log p(z) - log q(z|x), [num_samples, B], in nats.

        Arguments as for :meth:`draw_with_kl`.
        """
        mu, logvar = posterior.chunk(2, dim=-1)
        options: dict[str, Any] = {"scale": self.scale, "num_samples": num_samples, "row_offset": row_offset}
        return reparam_log_ratio(mu, logvar, key, **options, **self.prior.operands(posterior, labels))

    def sample_prior(self, key: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
        """Samples z from p(z), [count, latent_dim]."""
        return self.prior.sample(key, count, labels)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [..., latent_dim] -> the likelihood's parameters [..., outputs D]."""
        given = self.decoder_input(z, labels)
        decoded: Tensor = self.decoder(given.reshape(-1, given.shape[-1]))
        return decoded.view(*z.shape[:-1], decoded.shape[-1])

    def decoder_input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Returns the input of the decoder's first layer for z [..., latent_dim]."""
        return z
