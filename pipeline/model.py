"""The variational autoencoder: an encoder to mu and logvar, a decoder to logits, both multilayer perceptrons."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # what computes needs torch alone, so that it runs on GPU machines that have nothing else
    from pipeline.params import Model


class VAE(nn.Module):
    """q(z|x) = N(mu, exp(logvar)) by the encoder, the parameters of p(x|z) by the decoder, p(z) = N(0, 1).

    Args:
        pixels: of an image, flattened.
        params: widths, latent dimension and the bound on logvar.
    """

    bound: Tensor

    def __init__(self, pixels: int, params: Model) -> None:
        super().__init__()
        self.pixels = pixels
        self.latent_dim = params.latent_dim
        # Of mu, which has none, and of logvar: one tensor, because so is what it bounds.
        bound = torch.tensor([math.inf, params.logvar_bound]).repeat_interleave(params.latent_dim)
        self.register_buffer("bound", bound, persistent=False)
        widths = [pixels, *params.hidden]
        self.encoder = mlp([*widths, 2 * params.latent_dim])
        self.decoder = mlp([params.latent_dim, *reversed(widths)])
        # Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks. 2010.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Sets the output bias so that the untrained decoder gives about the data's mean image.

        logit(clip(mean, 0.001, 0.999)), as in the code of Burda et al. 2016. Worth a nat at the end of training: the
        first epochs are not spent on the black border.
        """
        last = self.decoder[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def posterior(self, x: Tensor) -> Tensor:
        """x [B, pixels] in [0, 1] -> mu and logvar side by side, [B, 2 latent_dim].

        logvar is bounded here, before z, KL and the gradients are made of it, so that they agree on it.
        """
        return torch.clamp(self.encoder(x), -self.bound, self.bound)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, pixels] in [0, 1] -> mu [B, latent_dim], logvar [B, latent_dim]."""
        mu, logvar = self.posterior(x).chunk(2, dim=-1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """z [..., latent_dim] -> logits [..., pixels]."""
        logits: Tensor = self.decoder(z)
        return logits


def mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers of these widths, ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def flatten_parameters(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Moves all parameters into one tensor, and makes room for their gradient in another, of which each parameter's is a part.

    Then an optimiser has one tensor to step, the gradient's norm is one product, and a checkpoint is a few tensors.

    Returns:
        the parameters [P] and the gradient [P]; the model's own are views of them, in order.
    """
    own = list(model.parameters())
    parameters = torch.cat([p.detach().flatten() for p in own])
    gradient = torch.zeros_like(parameters)
    sizes = [p.numel() for p in own]
    for p, values, grad in zip(own, parameters.split(sizes), gradient.split(sizes), strict=True):
        p.data, p.grad = values.view_as(p), grad.view_as(p)
    return parameters, gradient
