"""The gradient of the beta-ELBO by hand, for perceptrons and a Bernoulli: a millisecond per step less than autograd.

models/objectives.py defines the objective; the tests compare this with autograd. Backwards, layer by layer,

    y = x W^T + b:   dx = dy W,   dW = dy^T x,   db = sum over the batch of dy
    a = max(y, 0):   dy = da where a > 0;            a = tanh(y):   dy = (1 - a^2) da

and between the perceptrons the operators' own backward passes. Nothing is recorded, and every gradient is written in place.

With bfloat16, layer inputs and outputs and a copy of the weights are bfloat16. Trained weights, and sums over pixels and latent
dimensions, are float32. So are gradients, though the matrix product that gives a weight's is rounded to bfloat16, as it is
under autocast.
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
    """Whether :func:`write_gradient` applies: one sample of z, and no layer, likelihood or bound but those here."""
    layers, objective = [*model.encoder, *model.decoder], params.objective
    extras = objective.warm_up or objective.free_bits or objective.input_noise or objective.input_dropout
    return (
        objective.bound == "elbo"
        and objective.kl == "closed_form"
        and not extras
        and samples == 1
        and type(model) is VAE  # no subclass
        and model.has_standard_prior
        and model.scale == "exp"
        and isinstance(model.likelihood, Bernoulli)
        and all(isinstance(layer, nn.Linear | nn.ReLU | nn.Tanh) for layer in layers)
        and vae_ext.backend(device) != "reference"
    )


@torch.no_grad()
def write_gradient(
    model: VAE,
    pixels: Tensor,
    x: Tensor,
    key: Tensor,
    beta: float,
    *,
    row_offset: int = 0,
    batch: int = 0,
    parts: int = 1,
    dtype: torch.dtype = torch.float32,
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
        dtype: of the layers' inputs and outputs, and of their matrix products' factors: float32 or bfloat16.
    """
    kernels = torch.ops.vae_ext
    encoder, decoder = Perceptron(model.encoder, dtype), Perceptron(model.decoder, dtype)
    # One sample, sigma = exp(logvar / 2) and a KL per row are the defaults; each keyword argument costs a microsecond.
    options = {"row_offset": row_offset} if row_offset else {}
    weight = 1 / (batch or len(pixels))

    packed, encoder_inputs = encoder.forward(x)
    bounded = packed.float().clamp(-model.bound, model.bound)
    z, rate = kernels.reparam_kl_packed.default(bounded, key, **options)
    logits, decoder_inputs = decoder.forward(z)
    log_prob, grad = kernels.bernoulli_log_prob_and_gradient.default(logits, pixels, weight=-weight)

    grad = decoder.backward(decoder_inputs, grad, parts) @ decoder.weights[0]
    grad_rate = torch.full_like(rate, beta * weight)
    grad = kernels.reparam_kl_packed_backward.default(grad.float(), grad_rate, bounded, key, z, **options)
    grad *= packed == bounded
    encoder.backward(encoder_inputs, grad.to(dtype), parts)
    return Terms(-log_prob, rate)


class Perceptron:
    """Linear layers with the same activation between them, computed in ``dtype``."""

    def __init__(self, layers: nn.Sequential, dtype: torch.dtype) -> None:
        self.layers = linear_layers(layers)
        self.is_tanh = is_tanh(layers)
        self.dtype = dtype
        self.weights = [layer.weight.to(dtype) for layer in self.layers]
        self.biases = [layer.bias.to(dtype) for layer in self.layers]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last layer's output, and each layer's input."""
        inputs = [x.to(self.dtype)]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            y = torch.addmm(bias, inputs[-1], weight.t())
            inputs.append(y.tanh_() if self.is_tanh else y.relu_())
        return torch.addmm(self.biases[-1], inputs[-1], self.weights[-1].t()), inputs

    def backward(self, inputs: list[Tensor], grad: Tensor, parts: int) -> Tensor:
        """Writes the parameters' gradients, given the output's; returns the gradient of the first layer's output."""
        aten = torch.ops.aten
        for i in reversed(range(len(self.layers))):
            of_weight, of_bias = self.layers[i].weight.grad, self.layers[i].bias.grad
            assert of_weight is not None and of_bias is not None
            for j, (dy, x) in enumerate(zip(grad.tensor_split(parts), inputs[i].tensor_split(parts), strict=True)):
                if j == 0:
                    torch.sum(dy, dim=0, dtype=of_bias.dtype, out=of_bias)
                else:
                    of_bias += dy.sum(dim=0, dtype=of_bias.dtype)
                if self.dtype == of_weight.dtype:
                    of_weight.addmm_(dy.t(), x, beta=min(j, 1))
                elif j == 0:
                    of_weight.copy_(dy.t() @ x)
                else:
                    of_weight += dy.t() @ x
            if i > 0:
                # Through the activation, which gave inputs[i].
                grad = grad @ self.weights[i]
                grad = aten.tanh_backward(grad, inputs[i]) if self.is_tanh else aten.threshold_backward(grad, inputs[i], 0)
        return grad


def linear_layers(perceptron: nn.Sequential) -> list[nn.Linear]:
    """The layers that have parameters; between them, activations."""
    return [layer for layer in perceptron if isinstance(layer, nn.Linear)]


def is_tanh(perceptron: nn.Sequential) -> bool:
    """Whether its activations are that, and not ReLU."""
    return len(perceptron) > 1 and isinstance(perceptron[1], nn.Tanh)
