"""The networks: convolutions and linear layers from an image to the posterior's parameters, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.config.params import Layers

KERNEL = 3  # of the convolutions

Activation = Callable[[], nn.Module]
# ReLU in place: no preceding layer needs its output for the gradient, and this saves writing a feature map.
ACTIVATIONS: dict[str, Activation] = {"relu": partial(nn.ReLU, inplace=True), "tanh": nn.Tanh}


class FeatureMaps(nn.Unflatten):
    """Rows [B, C H W] as feature maps [B, C, H, W]; channels last in memory on a CPU, where convolutions are then faster."""

    def forward(self, rows: Tensor) -> Tensor:
        maps: Tensor = super().forward(rows)
        # A copy: maps of one channel are contiguous in either order, and a convolution would assume the other one.
        return maps.clone(memory_format=torch.channels_last) if maps.is_cpu else maps


def encoder(image_shape: Sequence[int], params: Layers, context: int, outputs: int, activation: Activation) -> nn.Sequential:
    """Convolutions, if any, then linear layers; the first linear layer has ``context`` additional inputs."""
    layers: list[nn.Module] = []
    channels, sizes = feature_maps(image_shape, params)
    if params.conv:
        layers.append(FeatureMaps(1, (channels[0], *sizes[0])))
        for (before, after), (_, stride) in zip(pairwise(channels), params.conv, strict=True):
            layers += [nn.Conv2d(before, after, KERNEL, stride, padding=KERNEL // 2), activation()]
        layers.append(nn.Flatten())
    widths = [channels[-1] * math.prod(sizes[-1]) + context, *params.hidden, outputs]
    return nn.Sequential(*layers, *linear_layers(widths, activation))


def decoder(image_shape: Sequence[int], params: Layers, inputs: int, outputs: int, activation: Activation) -> nn.Sequential:
    """The mirrored layers: linear ones, then transposed convolutions, to ``outputs`` values per pixel."""
    channels, sizes = feature_maps(image_shape, params)
    last = channels[-1] * math.prod(sizes[-1]) * (1 if params.conv else outputs)
    layers = linear_layers([inputs, *reversed(params.hidden), last], activation)
    if params.conv:
        layers += [activation(), FeatureMaps(1, (channels[-1], *sizes[-1]))]
        channels[0] *= outputs
        for i in reversed(range(len(params.conv))):
            stride = params.conv[i][1]
            # Strides round sizes up: output padding restores the original size.
            added = [size - (smaller - 1) * stride - 1 for size, smaller in zip(sizes[i], sizes[i + 1], strict=True)]
            layers += [
                nn.ConvTranspose2d(channels[i + 1], channels[i], KERNEL, stride, KERNEL // 2, (added[0], added[1])),
                activation(),
            ]
        layers[-1] = nn.Flatten()
    return nn.Sequential(*layers)


def feature_maps(image_shape: Sequence[int], params: Layers) -> tuple[list[int], list[list[int]]]:
    """Returns the channels of the image and after each convolution, and the corresponding sizes [H, W]."""
    *colours, height, width = image_shape
    channels, sizes = [math.prod(colours)], [[height, width]]
    for count, stride in params.conv:
        channels.append(count)
        sizes.append([math.ceil(size / stride) for size in sizes[-1]])
    return channels, sizes


def linear_layers(widths: list[int], activation: Activation) -> list[nn.Module]:
    """Linear layers of these widths, with activations between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return layers[:-1]


def xavier_(network: nn.Module) -> None:
    """Initial weights by Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks. 2010."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
