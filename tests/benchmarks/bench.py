"""Who computes a case, as calls that can be timed, each proved right before it is."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

import vae_ext
from tests.benchmarks.cases import CASES
from vae_ext import reference

Pair = tuple[Tensor, Tensor]
Tensors = tuple[Tensor, ...]
Call = Callable[[], object]
# Relative, of the textbook's KL above all, which is rounded to the dtype at every step.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def fused(mu: Tensor, logvar: Tensor, key: Tensor, samples: int | None) -> Pair:
    return vae_ext.reparam_kl(mu, logvar, key, num_samples=samples)


def plain(mu: Tensor, logvar: Tensor, key: Tensor, samples: int | None, row_offset: int = 0) -> Pair:
    return reference.reparam_kl(mu, logvar, key, samples, row_offset)


def textbook(mu: Tensor, logvar: Tensor, _key: Tensor | None = None, samples: int | None = None) -> Pair:
    """Sample and KL as they stand in every tutorial, with PyTorch's own noise."""
    eps = torch.randn_like(mu) if samples is None else torch.randn(samples, *mu.shape, dtype=mu.dtype, device=mu.device)
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(-1, dtype=torch.float32)
    return mu + torch.exp(0.5 * logvar) * eps, kl


def textbook_kept(mu: Tensor, logvar: Tensor, key: Tensor | None = None, samples: int | None = None) -> Pair:
    """The same, to be compiled by itself for a graph that is gone through again and again."""
    return textbook(mu, logvar, key, samples)


# dynamic=False: code for one shape, as a training loop has it, is faster than code for all. fullgraph: or an error.
compiled = functools.partial(torch.compile, dynamic=False, fullgraph=True)
PROVIDERS: dict[str, Callable[[Tensor, Tensor, Tensor, int | None], Pair]] = {
    "fused": fused,
    "reference": plain,
    "eager": textbook,
    "compile": compiled(textbook),
    "compile, kept": compiled(textbook_kept),
    "max-autotune": compiled(textbook, mode="max-autotune-no-cudagraphs"),  # CUDA graphs would copy the inputs
}
# Two yardsticks for the forward pass. randn: its noise alone; copy: as many bytes as it must move, by a plain copy.
MEASURED = {
    "forward": ("fused", "reference", "eager", "compile", "randn", "copy"),
    "backward": ("fused", "reference", "eager", "compile"),
    "both": ("fused", "reference", "eager", "compile", "max-autotune", "graph"),
}
GPU_ALONE = ("max-autotune", "graph")  # graph: the fused operator's call, replayed
CHECKED = 2**17  # elements at the start, and as many at the end: float64 takes its room


class Bench:
    """One case on one device: its tensors, and the calls on them."""

    providers: ClassVar[Mapping[str, Callable[..., Tensors]]] = PROVIDERS
    measured: ClassVar[Mapping[str, tuple[str, ...]]] = MEASURED

    def __init__(self, case: str, device: str) -> None:
        self.case, self.device = CASES[case], torch.device(device)
        self.prepare_inputs(torch.Generator().manual_seed(0))
        self.upstream = tuple(torch.randn_like(t) for t in self.outputs("fused"))
        self.call = functools.cache(self._prepare)

    def prepare_inputs(self, generator: torch.Generator) -> None:
        """Sets what a provider is called with, and which of it is differentiated."""
        values = torch.randn(2, self.case.rows, self.case.dim, generator=generator).to(self.device, self.case.dtype)
        self.mu, self.logvar = (t.clone().requires_grad_() for t in values)
        self.key = vae_ext.noise_key(1, device=self.device)
        self.inputs: tuple[object, ...] = (self.mu, self.logvar, self.key, self.case.samples)
        self.leaves: Tensors = (self.mu, self.logvar)

    def outputs(self, provider: str) -> Tensors:
        """Its outputs, with their graph."""
        return self.providers[provider](*self.inputs)

    def gradients(self, outputs: Tensors, *, again: bool = False) -> Tensors:
        """For gradients that come to all outputs; with ``again`` the graph stays for the next time."""
        return torch.autograd.grad(outputs, self.leaves, self.upstream, retain_graph=again)

    def both(self, provider: str) -> tuple[Tensors, Tensors]:
        outputs = self.outputs(provider)
        return outputs, self.gradients(outputs)

    def on_leaves_of_its_own(self) -> Bench:
        """The same tensors without the graphs that others keep of them: those hold a leaf to the stream it was first used on.

        While a stream is captured, nothing may wait for another, and the backward pass of such a leaf would.
        """
        own = {leaf: leaf.detach().requires_grad_() for leaf in self.leaves}
        bench = copy.copy(self)
        bench.leaves = tuple(own.values())
        bench.inputs = tuple(own.get(t, t) if isinstance(t, Tensor) else t for t in self.inputs)
        return bench

    def _prepare(self, mode: str, provider: str) -> Call:
        """What is timed, after it has been checked once; ``call`` keeps it for the next turn."""
        if provider == "randn":
            draw = functools.partial(torch.randn, self.upstream[0].shape, dtype=self.case.dtype, device=self.device)
            assert_standard_normal(provider, draw())
            return draw
        if provider == "copy":
            source = torch.randn(self.case.bytes_moved("forward") // 8, device=self.device)  # four bytes in, four out
            target = torch.full_like(source, torch.nan)
            assert torch.equal(target.copy_(source), source), "copy: expected the same values"
            return functools.partial(target.copy_, source)
        if provider == "graph":
            replay, results = capture(functools.partial(self.on_leaves_of_its_own().both, "fused"))
            replay()
            self.check(provider, *results)
            return replay
        if mode == "forward":
            inputs = (t.detach() if isinstance(t, Tensor) else t for t in self.inputs)
            forward = functools.partial(self.providers[provider], *inputs)
            self.check(provider, forward())
            return forward
        if mode == "backward":
            # By default a compiled backward pass writes over what its graph keeps, which is then good for one pass only.
            with torch._functorch.config.patch(donated_buffer=False):
                outputs = self.outputs("compile, kept" if provider == "compile" else provider)
                self.check(provider, outputs, self.gradients(outputs, again=True))
            return lambda: self.gradients(outputs, again=True)
        self.check(provider, *self.both(provider))
        return lambda: self.both(provider)

    def check(self, provider: str, outputs: Tensors, gradients: Tensors | None = None) -> None:
        """Outputs and gradients against the reference in float64, in the first rows and the last.

        Whoever draws by the key must give the reference's z. PyTorch's own noise is known by its moments alone: eps =
        (z - mu) / sigma must be standard normal, and KL and gradients what they must be for that eps.
        """
        z, kl = outputs
        rows = min(self.case.rows, max(1, CHECKED // self.case.dim))
        for start in sorted({0, self.case.rows - rows}):
            part = slice(start, start + rows)
            mu, logvar = (t.detach()[part].double().requires_grad_() for t in (self.mu, self.logvar))
            if provider in ("fused", "reference", "graph"):
                expected = plain(mu, logvar, self.key, self.case.samples, start)
            else:
                eps = ((z.detach()[..., part, :].double() - mu) / torch.exp(0.5 * logvar)).detach()
                assert_standard_normal(provider, eps)
                expected = (reference.reparameterize(mu, logvar, eps), reference.kl_divergence(mu, logvar).sum(-1))
            named = {"z": (z[..., part, :], expected[0]), "kl": (kl[part], expected[1])}
            if gradients is not None:
                upstream = (self.upstream[0][..., part, :].double(), self.upstream[1][part].double())
                right = torch.autograd.grad(expected, (mu, logvar), upstream)
                named |= {
                    "gradient of mu": (gradients[0][part], right[0]),
                    "gradient of logvar": (gradients[1][part], right[1]),
                }
            self.assert_right(provider, named)

    def assert_right(self, provider: str, named: dict[str, Pair]) -> None:
        """Each pair of what came and what should have."""
        tolerance = TOLERANCE[self.case.dtype]
        for name, (actual, wanted) in named.items():
            message = functools.partial("{}, {}: {}".format, provider, name)
            scale = tolerance * wanted.abs().max().item()
            torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=scale, msg=message)


def assert_standard_normal(provider: str, eps: Tensor) -> None:
    """Mean 0, variance 1, and none that serves twice: means over an axis of n have variance 1 / n. To six standard errors."""
    count, values = eps.numel(), eps.double()
    mean, variance = values.mean().item(), values.square().mean().item()
    assert abs(mean) <= 6 * count**-0.5, f"{provider}: expected noise of mean 0, got {mean}"
    assert abs(variance - 1) <= 6 * (2 / count) ** 0.5, f"{provider}: expected noise of variance 1, got {variance}"
    for axis, n in enumerate(eps.shape):
        if count // n >= 20:  # of fewer means the variance is anybody's guess
            ratio = n * values.mean(axis).square().mean().item()
            bound = 6 * (2 * n / count) ** 0.5
            fault = f"expected independent noise along axis {axis}, got means that vary {ratio:.3g} times as much"
            assert abs(ratio - 1) <= bound, f"{provider}: {fault}"


def capture(run: Callable[[], tuple[Tensors, Tensors]]) -> tuple[Call, tuple[Tensors, Tensors]]:
    """A CUDA graph of a call: its replay, and the tensors that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph.replay, results


def peak_bytes(bench: Bench, provider: str) -> int:
    """The most memory that both passes hold beyond inputs, outputs and gradients."""
    run = bench.call("both", provider)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        kept = run()
        peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    else:
        with torch.profiler.profile(profile_memory=True) as profile:
            kept = run()
        assert profile.profiler is not None
        held = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
    del kept  # not before: what it holds is not counted
    return peak - held
