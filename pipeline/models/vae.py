"""The variational autoencoder: an encoder to mu and logvar, a decoder to a likelihood's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.config.params import Layers, Model
from pipeline.models.likelihoods import likelihood_of

KERNEL = 3  # of the convolutions


class VAE(nn.Module):
    """q(z|x) = N(mu, sigma^2) by the encoder, p(x|z) by the decoder, p(z) = N(0, 1).

    With ``posterior: deterministic`` q(z|x) is the point mu, and this an autoencoder.

    Args:
        image_shape: [H, W] or [C, H, W]; images go in and out flattened, [B, D].
        params: layers, latent dimension, likelihood.
    """

    bound: Tensor

    def __init__(self, image_shape: Sequence[int], params: Model) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.pixels = math.prod(image_shape)
        self.latent_dim, self.scale = params.latent_dim, params.scale
        self.is_deterministic = params.posterior == "deterministic"
        # Of mu, which has none, and of logvar: one tensor, because so is what it bounds.
        bound = torch.tensor([math.inf] if self.is_deterministic else [math.inf, params.logvar_bound])
        self.register_buffer("bound", bound.repeat_interleave(params.latent_dim), persistent=False)
        activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[params.activation]
        likelihood = likelihood_of(params)
        self.encoder = encoder(image_shape, params, len(self.bound), activation)
        self.decoder = decoder(image_shape, params.decoder or params, params.latent_dim, likelihood.outputs, activation)
        self.likelihood = likelihood
        # Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks. 2010.
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def init_output_bias(self, mean: Tensor) -> None:
        """Sets the output bias so that the untrained decoder gives about the data's mean image [D].

        Worth a nat at the end of training: the first epochs are not spent on the black border. A convolution, which has one
        bias for all pixels, starts at the mean pixel.
        """
        bias = next(layer for layer in reversed(self.decoder) if isinstance(layer, nn.Linear | nn.ConvTranspose2d)).bias
        assert bias is not None
        bias.copy_(self.likelihood.start(mean.view(len(bias) // self.likelihood.outputs, -1).mean(1)))

    def posterior(self, x: Tensor) -> Tensor:
        """x [B, D] in [0, 1] -> mu and logvar side by side, [B, 2 latent_dim]; mu alone, if the posterior is a point.

        logvar, or rho where ``scale`` is softplus, is bounded here, before z, KL and the gradients are made of it, so that they
        agree on it.
        """
        return torch.clamp(self.encoder(x), -self.bound, self.bound)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, D] in [0, 1] -> mu [B, latent_dim], logvar [B, latent_dim] (or rho)."""
        mu, logvar = self.posterior(x).chunk(2, dim=-1)
        return mu, logvar

    def sigma(self, logvar: Tensor) -> Tensor:
        """The posterior's standard deviation: exp(logvar / 2), or softplus(rho)."""
        return torch.exp(logvar / 2) if self.scale == "exp" else nn.functional.softplus(logvar)

    def decode(self, z: Tensor) -> Tensor:
        """z [..., latent_dim] -> the likelihood's parameters [..., outputs D]."""
        decoded: Tensor = self.decoder(z.reshape(-1, self.latent_dim))
        return decoded.view(*z.shape[:-1], decoded.shape[-1])


class FeatureMaps(nn.Unflatten):
    """Rows [B, C H W] as feature maps [B, C, H, W]; on a CPU channels last in memory, as its convolutions are faster."""

    def forward(self, rows: Tensor) -> Tensor:
        maps: Tensor = super().forward(rows)
        # A copy: maps of one channel are contiguous in either order, and a convolution takes them to be in the other.
        return maps.clone(memory_format=torch.channels_last) if maps.is_cpu else maps


def encoder(image_shape: Sequence[int], params: Layers, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """Convolutions, if there are any, then linear layers."""
    layers: list[nn.Module] = []
    channels, sizes = feature_maps(image_shape, params)
    if params.conv:
        layers.append(FeatureMaps(1, (channels[0], *sizes[0])))
        for (before, after), (_, stride) in zip(pairwise(channels), params.conv, strict=True):
            layers += [nn.Conv2d(before, after, KERNEL, stride, padding=KERNEL // 2), activation()]
        layers.append(nn.Flatten())
    return nn.Sequential(*layers, *linear_layers([channels[-1] * math.prod(sizes[-1]), *params.hidden, outputs], activation))


def decoder(
    image_shape: Sequence[int], params: Layers, latent_dim: int, outputs: int, activation: type[nn.Module]
) -> nn.Sequential:
    """The same layers backwards: linear ones, then transposed convolutions, to so many outputs per pixel."""
    channels, sizes = feature_maps(image_shape, params)
    last = channels[-1] * math.prod(sizes[-1]) * (1 if params.conv else outputs)
    layers = linear_layers([latent_dim, *reversed(params.hidden), last], activation)
    if params.conv:
        layers += [activation(), FeatureMaps(1, (channels[-1], *sizes[-1]))]
        channels[0] *= outputs
        for i in reversed(range(len(params.conv))):
            stride = params.conv[i][1]
            # A stride rounds sizes up: what is added to the output's edge brings back the size that there was.
            added = [size - (smaller - 1) * stride - 1 for size, smaller in zip(sizes[i], sizes[i + 1], strict=True)]
            layers += [
                nn.ConvTranspose2d(channels[i + 1], channels[i], KERNEL, stride, KERNEL // 2, (added[0], added[1])),
                activation(),
            ]
        layers[-1] = nn.Flatten()
    return nn.Sequential(*layers)


def feature_maps(image_shape: Sequence[int], params: Layers) -> tuple[list[int], list[list[int]]]:
    """The channels of the image and after each convolution, and as many sizes [H, W]."""
    *colours, height, width = image_shape
    channels, sizes = [math.prod(colours)], [[height, width]]
    for count, stride in params.conv:
        channels.append(count)
        sizes.append([math.ceil(size / stride) for size in sizes[-1]])
    return channels, sizes


def linear_layers(widths: list[int], activation: type[nn.Module]) -> list[nn.Module]:
    """Linear layers of these widths, with activations between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return layers[:-1]
