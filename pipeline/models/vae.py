"""The variational autoencoder: an encoder to mu and logvar, a decoder to a likelihood's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.params import Model
from pipeline.models.likelihoods import likelihood_of
from pipeline.models.networks import ACTIVATIONS, decoder, encoder, xavier_
from pipeline.models.priors import StandardNormal, prior_of
from vae_ext import reparam_kl, reparam_kl_packed, reparam_log_ratio


class VAE(nn.Module):
    """q(z|x) = N(mu, sigma^2) by the encoder, p(x|z) by the decoder, p(z) by the prior.

    With ``posterior: deterministic`` q(z|x) is the point mu, and this an autoencoder.

    Other kinds of models are subclasses, in files of their own, chosen in kinds.py. Training, evaluation, figures and commands
    call these methods alone. ``labels`` are class numbers, int64 [B], or None if the model does not use them.

    Args:
        image_shape: [H, W] or [C, H, W]; images go in and out flattened, [B, D].
        params: layers, latent dimension, likelihood, prior.
        classes: number of classes of the images, for a prior by class.
        context: how many numbers the first linear layers of encoder and decoder are given besides.
    """

    bound: Tensor
    is_conditional = False  # whether encoder and decoder are given the class

    def __init__(self, image_shape: Sequence[int], params: Model, classes: int = 0, context: int = 0) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.pixels = math.prod(image_shape)
        self.latent_dim, self.scale = params.latent_dim, params.scale
        self.classes, self.uses_classes = classes, bool(params.uses_classes())
        self.is_deterministic = params.posterior == "deterministic"
        # Of mu, which has none, and of logvar: one tensor, because so is what it bounds.
        bound = torch.tensor([math.inf] if self.is_deterministic else [math.inf, params.logvar_bound])
        self.register_buffer("bound", bound.repeat_interleave(params.latent_dim), persistent=False)
        activation = ACTIVATIONS[params.activation]
        likelihood = likelihood_of(params)
        self.encoder = encoder(image_shape, params, context, len(self.bound), activation)
        inputs = params.latent_dim + context
        self.decoder = decoder(image_shape, params.decoder or params, inputs, likelihood.outputs, activation)
        self.likelihood, self.prior = likelihood, prior_of(params, classes)
        # Whether codes of the whole data lie about N(0, 1): not of an autoencoder, nor with other priors.
        self.has_standard_prior = not self.is_deterministic and isinstance(self.prior, StandardNormal)
        xavier_(self)

    @torch.no_grad()
    def init_output_bias(self, mean: Tensor) -> None:
        """Sets the output bias so that the untrained decoder gives about the data's mean image [D].

        Worth a nat at the end of training: the first epochs are not spent on the black border. A convolution, which has one
        bias for all pixels, starts at the mean pixel.
        """
        bias = next(layer for layer in reversed(self.decoder) if isinstance(layer, nn.Linear | nn.ConvTranspose2d)).bias
        assert bias is not None
        bias.copy_(self.likelihood.start(mean.view(len(bias) // self.likelihood.outputs, -1).mean(1)))

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, D] in [0, 1] -> mu and logvar side by side, [B, 2 latent_dim]; mu alone, if the posterior is a point.

        logvar, or rho where ``scale`` is softplus, is bounded here, before z, KL and the gradients are made of it, so that they
        agree on it.
        """
        return torch.clamp(self.encoder_output(x, labels), -self.bound, self.bound)

    def encoder_output(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The posterior before it is bounded."""
        output: Tensor = self.encoder(x)
        return output

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, D] in [0, 1] -> mu [B, latent_dim], logvar [B, latent_dim] (or rho)."""
        mu, logvar = self.posterior(x, labels).chunk(2, dim=-1)
        return mu, logvar

    def sigma(self, logvar: Tensor) -> Tensor:
        """The posterior's standard deviation: exp(logvar / 2), or softplus(rho)."""
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
        """z from q(z|x), and KL(q(z|x) || p(z)) in closed form; of an autoencoder its code, and 0.

        Args:
            posterior: as :meth:`posterior` gives it.
            key: of the noise.
            labels: the images' classes, [B], which a prior by class asks for.
            num_samples: of z; None: one, without an axis of its own.
            row_offset: of the noise.
            by_dimension: the KL of each latent dimension, in place of their sum.

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
        """z from q(z|x), [num_samples, B, latent_dim], and log p(z) - log q(z|x) of each, [num_samples, B], in nats.

        All arguments are those of :meth:`draw_with_kl`.
        """
        mu, logvar = posterior.chunk(2, dim=-1)
        options: dict[str, Any] = {"scale": self.scale, "num_samples": num_samples, "row_offset": row_offset}
        return reparam_log_ratio(mu, logvar, key, **options, **self.prior.operands(posterior, labels))

    def sample_prior(self, key: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
        """z from p(z), [count, latent_dim]."""
        return self.prior.sample(key, count, labels)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [..., latent_dim] -> the likelihood's parameters [..., outputs D]."""
        given = self.decoder_input(z, labels)
        decoded: Tensor = self.decoder(given.reshape(-1, given.shape[-1]))
        return decoded.view(*z.shape[:-1], decoded.shape[-1])

    def decoder_input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """What the decoder's first layer is given of z [..., latent_dim]."""
        return z
