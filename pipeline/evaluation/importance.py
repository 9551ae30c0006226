"""Estimates log p(x) by importance sampling: a bound that becomes tight as the number of samples grows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.data.tensors import as_float
from pipeline.models.vae import VAE

SAMPLE_BATCH = 50  # drawn at once, so that memory does not grow with the number of samples


@torch.no_grad()
def log_likelihood_bounds(
    model: VAE, pixels: Tensor, key: Tensor, counts: Sequence[int], row_offset: int = 0, labels: Tensor | None = None
) -> Tensor:
    """log p(x) >= log 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x), z_s from q(z|x), in expectation; tight as S grows.

    Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders. 2016. Samples are decoded one by one, each for the whole
    batch, into a running log-sum-exp in float64.

    Args:
        pixels: [B, D], bytes.
        key: of the noise.
        counts: the values of S, increasing. The samples of each bound are a prefix of the next one's.
        row_offset: the index of the first image, so that its noise does not depend on the batch size.
        labels: the images' classes, [B], if the model is conditional; the bound is then on log p(x|class).

    Returns:
        [len(counts), B], in nats, float64.
    """
    posterior = model.posterior(as_float(pixels).to(model.bound.dtype), labels)
    total = posterior.new_full(posterior.shape[:1], -math.inf, dtype=torch.float64)
    bounds = []
    for first in range(0, counts[-1], SAMPLE_BATCH):
        drawn = model.draw_with_log_ratio(
            posterior,
            key + torch.tensor([0, first // SAMPLE_BATCH], device=key.device),
            labels,
            num_samples=min(SAMPLE_BATCH, counts[-1] - first),
            row_offset=row_offset,
        )
        for sample, (z, log_ratio) in enumerate(zip(*drawn, strict=True), start=first + 1):
            log_p = model.likelihood.log_prob(model.decode(z, labels), pixels)
            total = torch.logaddexp(total, (log_p + log_ratio).double())
            if sample in counts:
                bounds.append(total - math.log(sample))
    return torch.stack(bounds)


def counts_up_to(samples: int) -> list[int]:
    """Returns 1, 2, 5, 10, 20, 50, ... below ``samples``, and ``samples``: the points of the bound's curve."""
    steps = (factor * 10**power for power in range(len(str(samples))) for factor in (1, 2, 5))
    return [*(step for step in steps if step < samples), samples]
