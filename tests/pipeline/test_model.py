"""Encoders and decoders for any image shape, and those of the recipes with the sizes of their sources."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipeline.models.vae import VAE
from tests.plain import plain_params

SHAPES = [(8, 8), (13, 17), (28, 28), (1, 9), (3, 32, 32), (3, 7, 5)]
LAYERS: list[dict[str, Any]] = [
    {"conv": [], "hidden": [16]},
    {"conv": [], "hidden": []},
    {"conv": [[4, 1], [6, 2], [5, 3]], "hidden": [16]},
    {"conv": [[4, 2]], "hidden": []},
]


def vae(shape: tuple[int, ...], **changes: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(shape, plain_params(**changes).model)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "categorical"])
def test_images_of_any_shape_are_encoded_and_decoded(shape: tuple[int, ...], layers: dict[str, Any], likelihood: str) -> None:
    model = vae(shape, likelihood=likelihood, **layers)
    pixels = torch.randint(0, 256, (5, math.prod(shape)), dtype=torch.uint8)
    mu, logvar = model.encode(pixels / 255)
    assert mu.shape == logvar.shape == (5, 6)
    for z in (mu, mu.expand(3, 5, 6)):
        decoded = model.decode(z)
        assert model.likelihood.log_prob(decoded, pixels).shape == z.shape[:-1]
        assert model.likelihood.mean(decoded).shape == (*z.shape[:-1], math.prod(shape))


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8)])
def test_feature_maps_are_channels_last_on_a_cpu(shape: tuple[int, ...]) -> None:
    model = vae(shape, conv=[[4, 1], [6, 2]])
    convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    strides = []
    for layer in convolutions:
        layer.register_forward_hook(lambda layer, _, maps: strides.append((maps.shape[1], maps.stride(1))))
    model.decode(model.encode(torch.rand(5, math.prod(shape)))[0])
    assert strides == [(layer.out_channels, 1) for layer in convolutions]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_an_untrained_decoder_starts_near_the_mean_image(shape: tuple[int, ...], likelihood: str) -> None:
    mean = torch.linspace(0.1, 0.9, math.prod(shape))
    model = vae(shape, likelihood=likelihood)
    model.init_output_bias(mean)
    torch.testing.assert_close(model.likelihood.mean(model.decode(torch.zeros(1, 6)))[0], mean)
    model = vae(shape, likelihood=likelihood, conv=[[4, 2]])
    model.init_output_bias(mean)
    # A convolution has one bias per colour, not per pixel.
    *colours, height, width = shape
    by_colour = mean.view(math.prod(colours), height * width).mean(1).repeat_interleave(height * width)
    torch.testing.assert_close(model.likelihood.mean(model.decode(torch.zeros(1, 6)))[0], by_colour)


def test_a_convolution_sees_neighbouring_pixels_of_the_image() -> None:
    model = vae((7, 5), conv=[[2, 1]], hidden=[])
    image = torch.zeros(1, 35)
    image[0, 2 * 5 + 3] = 1
    seen = model.encoder[:2](image) - model.encoder[:2](torch.zeros(1, 35))
    assert {tuple(place) for place in seen[0, 0].nonzero().tolist()} == {(i, j) for i in (1, 2, 3) for j in (2, 3, 4)}


def test_the_convolutional_recipe_has_the_parameter_counts_of_its_source() -> None:
    layers = {"conv": [[32, 1], [64, 2], [64, 1], [64, 1]], "hidden": [32], "latent_dim": 2}
    decoder = plain_params(conv=[[32, 1], [64, 2]], hidden=[]).model
    model = vae((28, 28), **layers, decoder=decoder)
    assert sum(p.numel() for p in model.encoder.parameters()) == 320 + 18_496 + 2 * 36_928 + 401_440 + 2 * 66
    assert sum(p.numel() for p in model.decoder.parameters()) == 37_632 + 18_464 + 289


def test_by_default_the_decoder_mirrors_the_encoder() -> None:
    def widths(layers: torch.nn.Sequential) -> list[tuple[int, int]]:
        found = []
        for layer in layers:
            if isinstance(layer, torch.nn.Linear):
                found.append((layer.in_features, layer.out_features))
            elif isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                found.append((layer.in_channels, layer.out_channels))
        return found

    model = vae((13, 17), conv=[[4, 1], [6, 2]], hidden=[16, 9])
    encoder, decoder = widths(model.encoder), widths(model.decoder)
    assert [(out, into) for into, out in decoder[::-1][:-1]] == encoder[:-1]
    assert decoder[0] == (6, 9)
    assert encoder[-1] == (9, 12)


def test_a_deterministic_encoder_returns_only_the_code() -> None:
    model = vae((8, 8), posterior="deterministic")
    x = torch.rand(5, 64)
    assert model.posterior(x).shape == (5, 6)
