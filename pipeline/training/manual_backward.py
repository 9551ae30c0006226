"""The gradient of the beta-ELBO by hand, for perceptrons and a Bernoulli: a millisecond per step less than autograd.

models/objectives.py defines the objective; the tests compare this with autograd. Backwards, layer by layer,

    y = x W^T + b:   dx = dy W,   dW = dy^T x,   db = sum over the batch of dy
    a = max(y, 0):   dy = da where a > 0;            a = tanh(y):   dy = (1 - a^2) da

and between the perceptrons the operators' own backward passes. Nothing is recorded, and every gradient is written in place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import vae_ext
from pipeline.config.params import Params
from pipeline.models.likelihoods import Bernoulli
from pipeline.models.objectives import Terms
from pipeline.models.vae import VAE


def applies(model: VAE, params: Params, samples: int, device: torch.device) -> bool:
    """Whether :func:`write_gradient` applies: one sample of z in float32, and no layer, likelihood or bound but those here."""
    layers, objective = [*model.encoder, *model.decoder], params.objective
    extras = objective.warm_up or objective.free_bits or objective.input_noise or objective.input_dropout
    return (
        objective.bound == "elbo"
        and objective.kl == "closed_form"
        and not extras
        and samples == 1
        and params.train.precision != "bfloat16"
        and not model.is_deterministic
        and model.scale == "exp"
        and isinstance(model.likelihood, Bernoulli)
        and all(isinstance(layer, nn.Linear | nn.ReLU | nn.Tanh) for layer in layers)
        and vae_ext.backend(device) != "reference"
    )


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
        parts: into how many parts the rows are split; the gradient is the sum of theirs.
    """
    kernels = torch.ops.vae_ext
    encoder, decoder = model.encoder, model.decoder
    # One sample, sigma = exp(logvar / 2) and a KL per row are the defaults; each keyword argument costs a microsecond.
    options = {"row_offset": row_offset} if row_offset else {}
    weight = 1 / (batch or len(pixels))

    packed, encoder_inputs = forward(encoder, x)
    bounded = packed.clamp(-model.bound, model.bound)
    z, rate = kernels.reparam_kl_packed.default(bounded, key, **options)
    logits, decoder_inputs = forward(decoder, z)
    log_prob, grad = kernels.bernoulli_log_prob_and_gradient.default(logits, pixels, weight=-weight)

    grad = backward(decoder, decoder_inputs, grad, parts) @ linear_layers(decoder)[0].weight
    grad_rate = torch.full_like(rate, beta * weight)
    grad = kernels.reparam_kl_packed_backward.default(grad, grad_rate, bounded, key, z, **options)
    grad *= packed == bounded
    backward(encoder, encoder_inputs, grad, parts)
    return Terms(-log_prob, rate)


def linear_layers(perceptron: nn.Sequential) -> list[nn.Linear]:
    """The layers that have parameters; between them, activations."""
    return [layer for layer in perceptron if isinstance(layer, nn.Linear)]


def forward(perceptron: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The last layer's output, and what went into each."""
    *layers, last = linear_layers(perceptron)
    inputs = [x]
    for layer in layers:
        y = torch.addmm(layer.bias, inputs[-1], layer.weight.t())
        inputs.append(y.tanh_() if is_tanh(perceptron) else y.relu_())
    return torch.addmm(last.bias, inputs[-1], last.weight.t()), inputs


def backward(perceptron: nn.Sequential, inputs: list[Tensor], grad: Tensor, parts: int) -> Tensor:
    """Writes the parameters' gradients for what comes to the output; returns what comes to the first layer's output."""
    layers = linear_layers(perceptron)
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
            # Through the activation, which gave inputs[i].
            grad = grad @ layers[i].weight
            aten = torch.ops.aten
            grad = aten.tanh_backward(grad, inputs[i]) if is_tanh(perceptron) else aten.threshold_backward(grad, inputs[i], 0)
    return grad


def is_tanh(perceptron: nn.Sequential) -> bool:
    """Whether its activations are that, and not ReLU."""
    return len(perceptron) > 1 and isinstance(perceptron[1], nn.Tanh)
