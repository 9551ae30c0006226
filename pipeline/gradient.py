"""The gradient of the beta-ELBO by hand, for perceptrons of linear layers and ReLU, a millisecond a step less than autograd.

objective.py defines what is differentiated; the tests hold this to what autograd makes of it. Backwards, layer by layer,

    y = x W^T + b:   dx = dy W,   dW = dy^T x,   db = sum over the batch of dy;       a = max(y, 0):   dy = da where a > 0

and between the perceptrons the operators' own backward passes. Nothing is recorded, and every gradient is written where the
optimiser reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import vae_ext
from pipeline.model import VAE
from pipeline.objective import Terms


def by_hand(model: VAE, device: torch.device) -> bool:
    """Whether :func:`write_gradient` serves: it calls vae_ext's kernels, and knows no other layers."""
    layers = [*model.encoder, *model.decoder]
    return vae_ext.backend(device) != "reference" and all(isinstance(layer, nn.Linear | nn.ReLU) for layer in layers)


@torch.no_grad()
def write_gradient(
    model: VAE, pixels: Tensor, x: Tensor, key: Tensor, beta: float, *, row_offset: int = 0, batch: int = 0, parts: int = 1
) -> Terms:
    """Writes the gradient of ``elbo_terms(model, pixels, key).loss(beta)`` into each parameter's ``grad``; returns the terms.

    Args:
        model: whose parameters have a ``grad`` to be overwritten.
        pixels: [B, D], bytes.
        x: the same as float32 in [0, 1].
        key: of the noise.
        row_offset: of the noise, where these are rows of a larger batch.
        batch: how many rows that has, over which the loss is a mean; 0: B.
        parts: the gradient is the sum of so many parts of the rows, each summed by itself.
    """
    kernels = torch.ops.vae_ext
    encoder, decoder = linear_layers(model.encoder), linear_layers(model.decoder)
    options = (key, None, row_offset, 0, 0)  # one sample, sigma = exp(logvar / 2), a KL a row
    weight = 1 / (batch or len(pixels))

    packed, encoder_inputs = forward(encoder, x)
    bounded = packed.clamp(-model.bound, model.bound)
    z, rate = kernels.reparam_kl_packed.default(bounded, *options)
    logits, decoder_inputs = forward(decoder, z)
    log_prob, grad = kernels.bernoulli_log_prob_and_gradient.default(logits, pixels, -weight)

    grad = backward(decoder, decoder_inputs, grad, parts) @ decoder[0].weight
    grad = kernels.reparam_kl_packed_backward.default(grad, torch.full_like(rate, beta * weight), bounded, *options)
    grad *= packed == bounded
    backward(encoder, encoder_inputs, grad, parts)
    return Terms(-log_prob, rate)


def linear_layers(perceptron: nn.Sequential) -> list[nn.Linear]:
    """The layers that have parameters; between them, ReLU."""
    return [layer for layer in perceptron if isinstance(layer, nn.Linear)]


def forward(layers: list[nn.Linear], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The last layer's output, and what went into each."""
    inputs = [x]
    for layer in layers[:-1]:
        inputs.append(torch.addmm(layer.bias, inputs[-1], layer.weight.t()).relu_())
    return torch.addmm(layers[-1].bias, inputs[-1], layers[-1].weight.t()), inputs


def backward(layers: list[nn.Linear], inputs: list[Tensor], grad: Tensor, parts: int) -> Tensor:
    """Writes the parameters' gradients for what comes to the output; returns what comes to the first layer's output."""
    for i in reversed(range(len(layers))):
        of_weight, of_bias = layers[i].weight.grad, layers[i].bias.grad
        assert of_weight is not None and of_bias is not None
        (first, x), *more = zip(grad.tensor_split(parts), inputs[i].tensor_split(parts), strict=True)
        torch.mm(first.t(), x, out=of_weight)
        torch.sum(first, dim=0, out=of_bias)
        for part, x in more:
            of_weight.addmm_(part.t(), x)
            of_bias += part.sum(dim=0)
        if i > 0:
            # Through ReLU, which gave inputs[i].
            grad = torch.ops.aten.threshold_backward(grad @ layers[i].weight, inputs[i], 0)
    return grad
