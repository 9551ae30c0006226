"""Mutual information of z and x, and the divergence of the aggregate posterior from the prior.

Their sum is the rate (Hoffman, Johnson: ELBO surgery. 2016): with n the index of an image, q(z) = 1/N sum_n q(z|x_n),

    1/N sum_n KL(q(z|x_n) || p(z))  =  I(n; z)  +  KL(q(z) || p(z))

and I(n; z) <= log N, with equality if the posteriors do not overlap. Given classes y, the same holds within each class: the
rate is the sum of I(n; z|y) and KL(q(z|y) || p(z|y)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.runtime.progress import progress_bar

ROW_BATCH = 500  # of the N x N table of log q(z_n|x_m), which is never in memory as a whole


@torch.no_grad()
def mutual_information(z: Tensor, mu: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
    """Returns log q(z_n|x_n) - log q(z_n) for one z_n from each posterior; its mean estimates I(n; z).

    Args:
        z: [N, latent_dim], z_n from N(mu_n, sigma_n^2).
        mu, sigma: [N, latent_dim].
        labels: class numbers, [N]; with them, q(z_n) is the mean of the posteriors of the image's class.

    Returns:
        [N], in nats, float64.
    """
    # One matrix product gives log q(z_n|x_m) = z_n . mu_m / sigma_m^2 - z_n^2 . 1 / (2 sigma_m^2) + constant_m, without the
    # -D/2 log(2 pi) of all. z and mu are relative to the mean of mu, since the terms cancel to those of (z_n - mu_m)^2: with an
    # error of about 2^-52 of the sum of (mu_m / sigma_m)^2 over the dimensions.
    center = mu.double().mean(0)
    z, mu, sigma = z.double() - center, mu.double() - center, sigma.double()
    weight = sigma.square().reciprocal()
    factors = torch.cat([mu * weight, -0.5 * weight], 1).T.contiguous()
    constant = -(0.5 * mu.square() * weight + sigma.log()).sum(1)
    found = []
    with progress_bar(len(z), "mutual information") as bar:
        for rows in torch.arange(len(z), device=z.device).split(ROW_BATCH):
            log_q = torch.addmm(constant, torch.cat([z[rows], z[rows].square()], 1), factors)
            own = log_q[torch.arange(len(rows), device=z.device), rows]
            if labels is None:
                found.append(own - log_q.logsumexp(1) + math.log(len(z)))
            else:
                others = labels[rows, None] != labels
                count = (~others).sum(1).double()
                found.append(own - log_q.masked_fill_(others, -math.inf).logsumexp(1) + count.log())
            bar.update(len(rows))
    return torch.cat(found)
