"""The Bernoulli likelihood p(x|z) of a decoder's logits.

Grey values are taken as they are, as probabilities of a white pixel: the cross-entropy that VAE examples report as the
log-likelihood of grey MNIST. Compare such numbers with each other, not with those of binarised images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vae_ext import bernoulli_log_prob


def log_prob(logits: Tensor, pixels: Tensor) -> Tensor:
    """log p(x|z) = sum over pixels of x log s + (1 - x) log(1 - s), x = pixels / 255, s = sigmoid(logits), in nats.

    Args:
        logits: [..., B, D].
        pixels: [B, D], bytes.

    Returns:
        [..., B]; computed from the logits, so it is finite where a probability rounds to 0 or 1.
    """
    return bernoulli_log_prob(logits, pixels)


def mean(logits: Tensor) -> Tensor:
    """E[x|z], in [0, 1], shape of the logits."""
    return torch.sigmoid(logits)
