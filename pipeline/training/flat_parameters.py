"""All parameters of a model as one tensor, and their gradient as another."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flatten_parameters(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Moves all parameters into one tensor and their gradients into another, of which each parameter's own are views.

    Then an optimiser has one tensor to step, the gradient's norm is one product, and a checkpoint is a few tensors.

    Returns:
        the parameters [P] and the gradient [P], in the order of ``model.parameters()``.
    """
    own = list(model.parameters())
    parameters = torch.cat([p.detach().flatten() for p in own])
    gradient = torch.zeros_like(parameters)
    sizes = [p.numel() for p in own]
    for p, values, grad in zip(own, parameters.split(sizes), gradient.split(sizes), strict=True):
        p.data, p.grad = values.view_as(p), grad.view_as(p)
    return parameters, gradient
