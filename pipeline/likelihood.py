"""The Bernoulli likelihood p(x|z) of a decoder's logits.

Grey values in [0, 1] are taken as they are, as probabilities of a white pixel: the cross-entropy that VAE examples report as
the log-likelihood of grey MNIST. Compare such numbers with each other, not with those of binarised images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) = sum over pixels of x log s + (1 - x) log(1 - s), s = sigmoid(logits), in nats.

    Args:
        logits: [..., B, pixels].
        x: [B, pixels] in [0, 1].

    Returns:
        [..., B]; computed from the logits, so it is finite where a probability rounds to 0 or 1.
    """
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def mean(logits: Tensor) -> Tensor:
    """E[x|z], in [0, 1], shape of the logits."""
    return torch.sigmoid(logits)
