"""Who computes a case, as calls that can be timed, each proved right before it is."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import vae_ext
from tests.benchmarks.cases import CASES, GPU
from vae_ext import reference

backend: Any = importlib.import_module("vae_ext.backend")  # a function of the package has the same name
Tensors = tuple[Tensor, ...]
Call = Callable[[], object]
Provider = Callable[..., Tensors]
# Relative, of the textbook's KL above all, which is rounded to the dtype at every step.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
CHECKED = 2**17  # elements at the start, and as many at the end: float64 takes its room
OURS = ("fused", "reference", "graph")  # by the key's noise; the others by PyTorch's own
# graph: the fused operator in a CUDA graph, without Python's time. randn and copy are yardsticks: the noise alone, and as many
# bytes as the forward pass must move, by a plain copy, on a GPU in a graph.
MEASURED = {
    "forward": ("fused", "reference", "eager", "distributions", "compile", "graph", "randn", "copy"),
    "backward": ("fused", "reference", "eager", "distributions", "compile"),
    "both": ("fused", "reference", "eager", "distributions", "compile", "graph"),
}


def measured(case: str, device: str) -> list[tuple[str, str]]:
    """Each mode and provider of a case."""
    left_out = {"randn"} if CASES[case].pixels else set()
    left_out |= set() if CASES[case].prior else {"distributions"}
    left_out |= {"graph"} if device == "cpu" else set()
    left_out |= {"reference"} if CASES[case] in GPU else set()  # its graph keeps 130 bytes an element
    return [(mode, name) for mode, names in MEASURED.items() for name in names if name not in left_out]


@contextmanager
def on_the_reference() -> Iterator[None]:
    """What VAE_EXT_BACKEND=reference does, for a while: every public function of vae_ext takes its reference."""
    with mock.patch.object(backend, "_forced", return_value="reference"):
        backend.backend_of.cache_clear()
        try:
            yield
        finally:
            backend.backend_of.cache_clear()


def fused(mu: Tensor, logvar: Tensor, key: Tensor, samples: int | None, row_offset: int = 0) -> Tensors:
    return vae_ext.reparam_kl(mu, logvar, key, num_samples=samples, row_offset=row_offset)


def textbook(mu: Tensor, logvar: Tensor, _key: Tensor | None = None, samples: int | None = None) -> Tensors:
    """Sample and KL as they stand in every tutorial, with PyTorch's own noise."""
    eps = torch.randn_like(mu) if samples is None else torch.randn(samples, *mu.shape, dtype=mu.dtype, device=mu.device)
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(-1, dtype=torch.float32)
    return mu + torch.exp(0.5 * logvar) * eps, kl


def fused_with_prior(
    mu: Tensor, logvar: Tensor, key: Tensor, samples: int | None, prior_mu: Tensor, prior_logvar: Tensor, row_offset: int = 0
) -> Tensors:
    options: dict[str, Any] = {"num_samples": samples, "row_offset": row_offset}
    return vae_ext.reparam_kl(mu, logvar, key, prior_mu=prior_mu, prior_logvar=prior_logvar, **options)


def textbook_with_prior(
    mu: Tensor, logvar: Tensor, _key: Any, _samples: Any, prior_mu: Tensor, prior_logvar: Tensor
) -> Tensors:
    """As conditional VAEs have it; one sample."""
    kl = -0.5 * (1 + logvar - prior_logvar - ((mu - prior_mu).pow(2) + logvar.exp()) / prior_logvar.exp()).sum(-1)
    return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu), kl


def by_distributions(mu: Tensor, logvar: Tensor, _key: Any, _samples: Any, prior_mu: Tensor, prior_logvar: Tensor) -> Tensors:
    """The same by torch.distributions."""
    posterior, prior = Normal(mu, torch.exp(0.5 * logvar)), Normal(prior_mu, torch.exp(0.5 * prior_logvar))
    return posterior.rsample(), kl_divergence(posterior, prior).sum(-1)


class Bench:
    """One case on one device: its tensors, and the calls on them."""

    fused: ClassVar[Provider] = staticmethod(fused)
    eager: ClassVar[Provider] = staticmethod(textbook)

    def __init__(self, case: str, device: str) -> None:
        self.case, self.device = CASES[case], device
        self.prepare_inputs(torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.upstream = tuple(torch.randn_like(t) for t in self.fused(*self.inputs))
        self.call = functools.cache(self._prepare)

    def prepare_inputs(self, generator: torch.Generator) -> None:
        """Sets what a provider is called with, and which of it is differentiated."""
        values = torch.randn(2, self.case.rows, self.case.dim, generator=generator).to(self.device, self.case.dtype)
        self.mu, self.logvar = (t.clone().requires_grad_() for t in values)
        self.key = vae_ext.noise_key(1, device=self.device)
        self.inputs: tuple[object, ...] = (self.mu, self.logvar, self.key, self.case.samples)
        self.leaves: Tensors = (self.mu, self.logvar)

    def provider(self, name: str) -> Provider:
        if name in ("fused", "graph"):
            return self.fused
        if name == "reference":
            return on_the_reference()(self.fused)
        if name == "eager":
            return self.eager
        if name == "distributions":
            return by_distributions
        # What is compiled belongs to a code object: a copy for each mode. dynamic=False: code for one shape, as a training loop
        # has it, is faster than code for all. fullgraph: or an error.
        eager = types.FunctionType(self.eager.__code__.replace(), self.eager.__globals__, argdefs=self.eager.__defaults__)
        compiled: Provider = torch.compile(eager, dynamic=False, fullgraph=True)
        return compiled

    def forward(self, provider: Provider) -> Callable[[], Tensors]:
        """A call of which nothing is differentiated."""
        return functools.partial(provider, *(t.detach() if isinstance(t, Tensor) else t for t in self.inputs))

    def gradients(self, outputs: Tensors, *, again: bool = False) -> Tensors:
        """For gradients that come to all outputs; with ``again`` the graph stays for the next time."""
        return torch.autograd.grad(outputs, self.leaves, self.upstream, retain_graph=again)

    def both(self, provider: Provider) -> tuple[Tensors, Tensors]:
        outputs = provider(*self.inputs)
        return outputs, self.gradients(outputs)

    def _prepare(self, mode: str, name: str) -> Call:
        """What is timed, after it has been checked once; ``call`` keeps it for the next turn."""
        if name == "randn":
            draw = functools.partial(torch.randn, self.upstream[0].shape, dtype=self.case.dtype, device=self.device)
            assert_standard_normal(draw())
            return draw
        if name == "copy":
            copy = copy_of(self.case.bytes_moved("forward"), self.device)
            return copy if self.device == "cpu" else capture(copy)[0]
        provider, ours = self.provider(name), name in OURS
        if name == "graph":
            # On leaves that no other graph holds to the stream on which they were first used: a capture may wait for no other.
            own = self if mode == "forward" else type(self)(self.case.name, self.device)
            forward = own.forward(provider)
            replay, results = capture(lambda: (forward(), None) if mode == "forward" else own.both(provider))
            replay()
            own.check(*results, ours=ours)
            return replay
        if mode == "forward":
            forward = self.forward(provider)
            self.check(forward(), ours=ours)
            return forward
        if mode == "backward":
            # By default a compiled backward pass writes over what its graph keeps, which is then good for one pass only.
            with torch._functorch.config.patch(donated_buffer=False):
                outputs = provider(*self.inputs)
                self.check(outputs, self.gradients(outputs, again=True), ours=ours)
            return functools.partial(self.gradients, outputs, again=True)
        self.check(*self.both(provider), ours=ours)
        return functools.partial(self.both, provider)

    def check(self, outputs: Tensors, gradients: Tensors | None = None, *, ours: bool) -> None:
        """Outputs and gradients against the reference in float64, in the first rows and the last.

        Ours must give the reference's z. Other noise is known by its moments alone: eps = (z - mu) / sigma must be standard
        normal, and KL and gradients what they must be for that eps.
        """
        z, kl = outputs
        rows = min(self.case.rows, max(1, CHECKED // self.case.dim))
        for start in sorted({0, self.case.rows - rows}):
            part = slice(start, start + rows)
            leaves = tuple(t.detach()[part].double().requires_grad_() for t in self.leaves)
            mu, logvar, *prior = leaves
            if ours:
                operator: Provider = fused_with_prior if prior else fused
                expected = on_the_reference()(operator)(mu, logvar, self.key, self.case.samples, *prior, row_offset=start)
            else:
                eps = ((z.detach()[..., part, :].double() - mu) / torch.exp(0.5 * logvar)).detach()
                assert_standard_normal(eps)
                kl64 = reference.kl_divergence(*(reference.whiten(*leaves) if prior else leaves)).sum(-1)
                expected = (reference.reparameterize(mu, logvar, eps), kl64)
            self.assert_close(("z", "kl"), (z[..., part, :], kl[part]), expected)
            if gradients is not None:
                upstream = (self.upstream[0][..., part, :].double(), self.upstream[1][part].double())
                right = torch.autograd.grad(expected, leaves, upstream)
                names = tuple(f"gradient of {name}" for name in ("mu", "logvar", "prior_mu", "prior_logvar"))
                self.assert_close(names[: len(leaves)], [g[part] for g in gradients], right)

    def assert_close(self, names: tuple[str, ...], actual: Tensors | list[Tensor], expected: Tensors) -> None:
        tolerance = TOLERANCE[self.case.dtype]
        for name, found, wanted in zip(names, actual, expected, strict=True):
            scale, message = tolerance * wanted.abs().max().item(), functools.partial("{}: {}".format, name)
            torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=scale, msg=message)


class PriorBench(Bench):
    """The same with a prior for each row, as a network gives it."""

    fused = staticmethod(fused_with_prior)
    eager = staticmethod(textbook_with_prior)

    def prepare_inputs(self, generator: torch.Generator) -> None:
        super().prepare_inputs(generator)
        values = torch.randn(2, self.case.rows, self.case.dim, generator=generator).to(self.device, self.case.dtype)
        prior = tuple(t.clone().requires_grad_() for t in values)
        self.inputs, self.leaves = (*self.inputs, *prior), (*self.leaves, *prior)


def log_prob(logits: Tensor, pixels: Tensor, _x: Tensor) -> Tensors:
    return (vae_ext.bernoulli_log_prob(logits, pixels),)


def cross_entropy(logits: Tensor, _pixels: Tensor, x: Tensor) -> Tensors:
    """As it stands in every training loop, whose images are floats already: -log p."""
    return (F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1),)


class PixelBench(Bench):
    """log p(x|logits) of Bernoulli pixels: logits of bytes; the bytes as floats stand ready for those who need them."""

    fused = staticmethod(log_prob)
    eager = staticmethod(cross_entropy)

    def prepare_inputs(self, generator: torch.Generator) -> None:
        rows, dim = self.case.rows, self.case.dim
        samples = () if self.case.samples is None else (self.case.samples,)
        logits = torch.randn(*samples, rows, dim, generator=generator).to(self.device, self.case.dtype)
        self.pixels = torch.randint(256, (rows, dim), generator=generator, dtype=torch.uint8).to(self.device)
        self.leaves = (logits.requires_grad_(),)
        self.inputs = (*self.leaves, self.pixels, self.pixels.to(self.case.dtype) / 255)

    def check(self, outputs: Tensors, gradients: Tensors | None = None, *, ours: bool) -> None:
        """Log-likelihoods, or cross-entropies, and their gradient against the reference in float64."""
        logits = self.leaves[0].detach().double().requires_grad_()
        expected = reference.bernoulli_log_prob(logits, self.pixels) * (1 if ours else -1)
        self.assert_close(("log_prob",), outputs, (expected,))
        if gradients is not None:
            right = torch.autograd.grad(expected, logits, self.upstream[0].double())
            self.assert_close(("gradient of logits",), gradients, right)


@functools.cache
def bench_of(case: str, device: str) -> Bench:
    """The inputs of a case, and the calls on them: the same for every turn."""
    kind = PixelBench if CASES[case].pixels else PriorBench if CASES[case].prior else Bench
    return kind(case, device)


def assert_standard_normal(eps: Tensor) -> None:
    """Mean 0, variance 1, and none that serves twice: means over an axis of n have variance 1 / n. To six standard errors."""
    count, values = eps.numel(), eps.double()
    mean, variance = values.mean().item(), values.square().mean().item()
    assert abs(mean) <= 6 * count**-0.5, f"expected noise of mean 0, got {mean}"
    assert abs(variance - 1) <= 6 * (2 / count) ** 0.5, f"expected noise of variance 1, got {variance}"
    for axis, n in enumerate(eps.shape):
        if count // n >= 20:  # of fewer means the variance is anybody's guess
            ratio = n * values.mean(axis).square().mean().item()
            bound = 6 * (2 * n / count) ** 0.5
            fault = f"expected independent noise along axis {axis}, got means that vary {ratio:.3g} times as much"
            assert abs(ratio - 1) <= bound, fault


def copy_of(size: int, device: str) -> Callable[[], Tensor]:
    """A plain copy that moves so many bytes, half of them in and half of them out."""
    source = torch.randn(size // 8, device=device)
    target = torch.full_like(source, torch.nan)
    assert torch.equal(target.copy_(source), source), "copy: expected the same values"
    return functools.partial(target.copy_, source)


def capture(run: Callable[[], Any]) -> tuple[Call, Any]:
    """A CUDA graph of a call: its replay, and the results that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()

    def replay(_run: object = run) -> None:  # whose tensors the graph reads, and does not keep
        graph.replay()

    return replay, results
