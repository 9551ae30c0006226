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
from pipeline.data import as_float
from pipeline.model import VAE
from pipeline.objective import Terms


def by_hand(model: VAE, device: torch.device) -> bool:
    """Whether :func:`write_gradient` serves: it calls vae_ext's kernels, and knows no other layers."""
    layers = [*model.encoder, *model.decoder]
    return vae_ext.backend(device) != "reference" and all(isinstance(layer, nn.Linear | nn.ReLU) for layer in layers)


@torch.no_grad()
def write_gradient(model: VAE, pixels: Tensor, key: Tensor, beta: float) -> Terms:
    """Writes the gradient of ``elbo_terms(model, pixels, key).loss(beta)`` into each parameter's ``grad``; returns the terms.

    Args:
        model: whose parameters have a ``grad`` to be overwritten.
        pixels: [B, D], bytes.
        key: of the noise.
    """
    kernels = torch.ops.vae_ext
    encoder, decoder = linear_layers(model.encoder), linear_layers(model.decoder)
    options = (key, None, 0, 0, 0)  # one sample, rows from 0, sigma = exp(logvar / 2), a KL a row

    packed, encoder_inputs = forward(encoder, as_float(pixels))
    bounded = packed.clamp(-model.bound, model.bound)
    z, rate = kernels.reparam_kl_packed.default(bounded, *options)
    logits, decoder_inputs = forward(decoder, z)
    log_prob = kernels.bernoulli_log_prob.default(logits, pixels)

    share = 1 / len(pixels)
    grad = kernels.bernoulli_log_prob_backward.default(torch.full_like(rate, -share), logits, pixels)
    grad = backward(decoder, decoder_inputs, grad) @ decoder[0].weight
    grad = kernels.reparam_kl_packed_backward.default(grad, torch.full_like(rate, beta * share), bounded, *options)
    grad *= packed == bounded
    backward(encoder, encoder_inputs, grad)
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


def backward(layers: list[nn.Linear], inputs: list[Tensor], grad: Tensor) -> Tensor:
    """Writes the parameters' gradients for what comes to the output; returns what comes to the first layer's output."""
    for i in reversed(range(len(layers))):
        weight, bias = layers[i].weight, layers[i].bias
        torch.mm(grad.t(), inputs[i], out=weight.grad)
        torch.sum(grad, dim=0, out=bias.grad)
        if i > 0:
            # Through ReLU, which gave inputs[i].
            grad = torch.ops.aten.threshold_backward(grad @ weight, inputs[i], 0)
    return grad
