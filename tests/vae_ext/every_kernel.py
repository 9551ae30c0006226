"""Calls every kernel through PyTorch, on small awkward shapes: for compute-sanitizer (`make gpu`), and in a test on a CPU.

python -m tests.vae_ext.every_kernel cuda
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

import vae_ext

SHAPES = ((1, 1), (7, 20), (3, 33), (130, 64), (5, 1271))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

Form = Callable[[Tensor, Tensor, Tensor, int | None], tuple[Tensor, Tensor]]
FORMS: tuple[Form, ...] = (
    lambda mu, logvar, key, k: vae_ext.reparam_kl(mu, logvar, key, num_samples=k),
    lambda mu, logvar, key, k: vae_ext.reparam_kl(mu, logvar, key, num_samples=k, kl_reduction="none", scale="softplus"),
    lambda mu, logvar, key, k: vae_ext.reparam_log_ratio(mu, logvar, key, num_samples=k),
    lambda mu, logvar, key, k: vae_ext.reparam_kl(mu, logvar, key, num_samples=k, prior_mu=logvar, prior_logvar=mu[0]),
    lambda mu, logvar, key, k: vae_ext.reparam_log_ratio(mu, logvar, key, num_samples=k, prior_mu=logvar, prior_logvar=mu),
    lambda mu, logvar, key, k: vae_ext.reparam_kl_packed(torch.cat([mu, logvar], -1), key, num_samples=k),
)


def call_gaussian(device: str, dtype: torch.dtype) -> None:
    """Calls forward, and backward with the gradients of both outputs and of each one."""
    key = vae_ext.noise_key(1, device=device)
    for (rows, dim), form, k in itertools.product(SHAPES, FORMS, (None, 2)):
        mu, logvar = torch.randn(2, rows, dim, device=device).to(dtype).requires_grad_()
        z, out = form(mu, logvar, key, k)
        (z.float().sum() + out.sum()).backward(retain_graph=True)
        z.float().sum().backward(retain_graph=True)
        out.sum().backward()


def call_pixels(device: str, dtype: torch.dtype) -> None:
    key = vae_ext.noise_key(1, device=device)
    for (rows, dim), k in itertools.product(SHAPES, (1, 2)):
        logits = torch.randn(k, rows, dim, device=device).to(dtype).requires_grad_()
        pixels = torch.randint(256, (rows, dim), device=device).to(torch.uint8)
        vae_ext.bernoulli_log_prob(logits, vae_ext.binarize(pixels, key)).sum().backward()
        torch.ops.vae_ext.bernoulli_log_prob_and_gradient(logits.detach().flatten(0, 1), pixels, weight=0.5)
        taken = torch.randint(rows, (2 * rows + 1,), device=device)
        for draws in (None, key):
            vae_ext.take_pixels(pixels, taken, draws)


def main(device: str) -> None:
    for dtype in DTYPES:
        call_gaussian(device, dtype)
        call_pixels(device, dtype)
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
