"""Packs the decoder and arrays into bytes, small enough for a page in a browser."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.vae import VAE

HALF_WEIGHTS = 1_500_000  # weights of a decoder that is stored in half precision: at most 4 MB of the page
LEVELS = 63  # number of levels of a larger decoder's weights, per sign: 7 bits, which gzip packs


class Blob:
    """Arrays in one byte string, each aligned to two bytes."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def add(self, values: Tensor) -> list[int]:
        """Appends an array, bytes unchanged and others in half precision; returns its [offset, length]."""
        array = values.detach().cpu().numpy()
        if array.itemsize > 1:
            array = array.astype("<f2")
        self.bytes += bytes(len(self.bytes) % 2)
        offset = len(self.bytes)
        self.bytes += array.tobytes()
        return [offset, array.size]

    def packed(self) -> str:
        """Returns the compressed bytes as base64, for a ``script`` element."""
        return base64.b64encode(gzip.compress(bytes(self.bytes), mtime=0)).decode()


def is_large(decoder: nn.Module) -> bool:
    """Whether the weights in half precision would exceed the limit."""
    return sum(p.numel() for p in decoder.parameters()) > HALF_WEIGHTS


def to_levels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantizes weights [R, ...] to levels k, int8 of the same shape, and each row's largest magnitude m, float16 [R].

    A weight is m k |k| / LEVELS^2: most weights are small relative to their row's largest, and squares are dense there. For the
    default model, uniform steps have 1.5 times the error in a pixel.
    """
    most = weight.flatten(1).abs().amax(1).half()
    share = weight / column(most, weight).to(weight.dtype).clamp(min=torch.finfo(torch.float16).tiny)
    return (share.sign() * share.abs().sqrt() * LEVELS).round().clamp(-LEVELS, LEVELS).to(torch.int8), most


def column(rows: Tensor, like: Tensor) -> Tensor:
    """Reshapes values [R] to broadcast over [R, ...]."""
    return rows.view(-1, *[1] * (like.dim() - 1))


def as_stored(parameter: Tensor, *, large: bool) -> Tensor:
    """Returns a parameter as the page's script reconstructs it, for a ``large`` decoder or another."""
    if not large or parameter.dim() == 1:
        return parameter.half().to(parameter.dtype)
    levels, most = to_levels(parameter)
    share = levels.to(parameter.dtype) / LEVELS
    return column(most, parameter).to(parameter.dtype) * share * share.abs()


def layer_descriptions(decoder: nn.Sequential, blob: Blob) -> list[dict[str, Any]]:
    """Describes the decoder's layers for the page's script, with their weights in the blob."""
    layers: list[dict[str, Any]] = []
    size: tuple[int, ...] = ()
    large = is_large(decoder)
    for layer in decoder:
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
            assert layer.bias is not None
            layers.append({"bias": blob.add(layer.bias)})
            if large:
                levels, most = to_levels(layer.weight)
                layers[-1] |= {"levels": blob.add(levels), "most": blob.add(most)}
            else:
                layers[-1]["weight"] = blob.add(layer.weight)
        if isinstance(layer, nn.Linear):
            layers[-1]["kind"] = "linear"
        elif isinstance(layer, nn.ConvTranspose2d):
            kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
            added = layer.output_padding
            to = [(side - 1) * stride - 2 * padding + kernel + more for side, more in zip(size[1:], added, strict=True)]
            about = {"inputs": layer.in_channels, "outputs": layer.out_channels, "size": size[1:], "to": to}
            layers[-1] |= {"kind": "conv_transpose", **about, "kernel": kernel, "stride": stride, "padding": padding}
            size = (layer.out_channels, *to)
        elif isinstance(layer, nn.Unflatten):
            size = tuple(layer.unflattened_size)
        elif isinstance(layer, nn.ReLU | nn.Tanh):
            layers.append({"kind": type(layer).__name__.lower()})
        elif not isinstance(layer, nn.Flatten):
            raise TypeError(f"{layer}: the page's script has no such layer")
    return layers


@torch.no_grad()
def storage_error(model: VAE, z: Tensor, labels: Tensor | None) -> float:
    """Returns the largest change of any pixel of E[x|z] by the stored precision of the weights and of z [N, latent_dim]."""
    large = is_large(model.decoder)
    stored = {name: as_stored(p, large=large) for name, p in model.decoder.named_parameters()}
    given = model.decoder_input(z.half().to(z.dtype), labels)
    decoded = torch.func.functional_call(model.decoder, stored, given)
    return (model.likelihood.mean(model.decode(z, labels)) - model.likelihood.mean(decoded)).abs().max().item()
