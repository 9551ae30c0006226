"""Schedules of the learning rate and of beta."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.config.params import Params, Train


def learning_rates(params: Train, first: int, count: int, total: int) -> Tensor:
    """Returns the learning rates of steps ``first`` to ``first + count`` of ``total``; float64 [count].

    - ``constant``;
    - ``cosine``: half a cosine, down to 0;
    - ``burda``: eight stages down to a tenth, each three times as long as the previous one (Burda et al. 2016, section 5: 3280
      epochs); scaled to the number of epochs.
    """
    factor = {
        "constant": lambda step: 1.0,
        "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * step / total)),
        "burda": lambda step: burda(step / total),
    }[params.schedule]
    return params.learning_rate * torch.tensor([factor(step) for step in range(first, first + count)], dtype=torch.float64)


def burda(progress: float) -> float:
    """Returns the factor round(10^(1 - i / 7), 1) / 10 of stage i, 0 to 7, which lasts 3^i of 3280 epochs."""
    stage = sum(progress >= (3 ** (i + 1) - 1) / (3**8 - 1) for i in range(7))
    factor: float = round(10.0 ** (1 - stage / 7), 1) / 10
    return factor


def betas(params: Params, first: int, count: int) -> Tensor:
    """Returns the weights of the rate in steps ``first`` to ``first + count``; float64 [count].

    They rise linearly to ``beta`` over ``objective.warm_up`` epochs of ``count`` steps.
    """
    warm_up = params.objective.warm_up * count
    rising = [min(1.0, (step + 1) / warm_up) if warm_up else 1.0 for step in range(first, first + count)]
    return params.beta * torch.tensor(rising, dtype=torch.float64)
