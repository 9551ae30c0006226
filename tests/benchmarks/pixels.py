"""Who computes log p(x|logits) of Bernoulli pixels, in the manner of bench.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import vae_ext
from tests.benchmarks.bench import Bench, Tensors, compiled
from vae_ext import reference


def fused(logits: Tensor, pixels: Tensor, _x: Tensor) -> Tensors:
    return (vae_ext.bernoulli_log_prob(logits, pixels),)


def plain(logits: Tensor, pixels: Tensor, _x: Tensor) -> Tensors:
    return (reference.bernoulli_log_prob(logits, pixels),)


def cross_entropy(logits: Tensor, _pixels: Tensor, x: Tensor) -> Tensors:
    """As it stands in every training loop, whose images are floats already: -log p."""
    return (F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1),)


def cross_entropy_kept(logits: Tensor, pixels: Tensor, x: Tensor) -> Tensors:
    """The same, to be compiled by itself, as bench.textbook_kept is."""
    return cross_entropy(logits, pixels, x)


class PixelBench(Bench):
    """Logits of bytes; the bytes as floats stand ready for those who need them."""

    providers = {  # noqa: RUF012
        "fused": fused,
        "reference": plain,
        "eager": cross_entropy,
        "compile": compiled(cross_entropy),
        "compile, kept": compiled(cross_entropy_kept),
        "max-autotune": compiled(cross_entropy, mode="max-autotune-no-cudagraphs"),
    }
    measured = {mode: tuple(p for p in providers if p != "randn") for mode, providers in Bench.measured.items()}  # noqa: RUF012

    def prepare_inputs(self, generator: torch.Generator) -> None:
        rows, dim = self.case.rows, self.case.dim
        samples = () if self.case.samples is None else (self.case.samples,)
        logits = torch.randn(*samples, rows, dim, generator=generator).to(self.device, self.case.dtype)
        self.logits = logits.requires_grad_()
        self.pixels = torch.randint(256, (rows, dim), generator=generator, dtype=torch.uint8).to(self.device)
        self.inputs = (self.logits, self.pixels, self.pixels.to(self.case.dtype) / 255)
        self.leaves = (self.logits,)

    def check(self, provider: str, outputs: Tensors, gradients: Tensors | None = None) -> None:
        """Log-likelihoods, or cross-entropies, and their gradient against the reference in float64."""
        logits = self.logits.detach().double().requires_grad_()
        log_prob = reference.bernoulli_log_prob(logits, self.pixels)
        expected = log_prob if provider in ("fused", "reference", "graph") else -log_prob
        named = {"log_prob": (outputs[0], expected)}
        if gradients is not None:
            (right,) = torch.autograd.grad(expected, logits, self.upstream[0].double())
            named["gradient of logits"] = (gradients[0], right)
        self.assert_right(provider, named)
