"""What the fused operator costs beside PyTorch's own: `make operator-table`.

Every line is a ratio of two sides measured in one run, in turns, as medians; above 1 the operator is the faster. The noise's
key is given, as in training. Before it is timed, each side is checked to compute the same quantities.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import vae_ext

Pair = tuple[Tensor, Tensor]
SHAPES = [(128, 20), (1024, 64), (8192, 128)]


def textbook(mu: Tensor, logvar: Tensor) -> Pair:
    """Sample and KL as they stand in every tutorial."""
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    return z, -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(-1)


# For one shape at a time, as a training loop has it: code for all shapes at once is slower.
compiled_textbook = torch.compile(textbook, dynamic=False)


def forward_and_backward(function: Callable[..., Pair], *inputs: Tensor) -> Callable[[], list[Tensor]]:
    """A call that gives outputs and gradients, for gradients that come to both outputs."""
    upstream = [torch.randn_like(t) for t in function(*inputs)]

    def run() -> list[Tensor]:
        outputs = function(*inputs)
        return [*outputs, *torch.autograd.grad(outputs, inputs, upstream)]

    return run


def kernels(mu: Tensor, logvar: Tensor, key: Tensor) -> Callable[[], object]:
    """The raw operators alone: what is left of both passes when autograd and the checks cost nothing."""
    options = (key, None, 0, 0, 0)
    upstream = [torch.randn_like(t) for t in vae_ext.reparam_kl(mu, logvar, key)]
    forward, backward = torch.ops.vae_ext.reparam_kl.default, torch.ops.vae_ext.reparam_kl_backward.default

    def run() -> object:
        with torch._C._AutoDispatchBelowAutograd():
            return forward(mu, logvar, *options), backward(*upstream, mu, logvar, *options)

    return run


def medians(ours: Callable[[], object], theirs: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Medians of both, in seconds, measured in turns after a warm-up."""
    sides = (ours, theirs)
    for side in sides:
        for _ in range(10):
            side()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for side, spent in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            spent.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def check(mu: Tensor, logvar: Tensor, key: Tensor) -> None:
    """All give the same KL and gradients of it and, with the operator's noise put into the formula, the same z."""
    z, kl = vae_ext.reparam_kl(mu, logvar, key)
    torch.testing.assert_close(z, mu + torch.exp(0.5 * logvar) * vae_ext.standard_normal(key, mu.shape[0], mu.shape[1]))
    grads = torch.autograd.grad(kl.sum(), (mu, logvar))
    for function in (textbook, compiled_textbook):
        theirs = function(mu, logvar)[1]
        torch.testing.assert_close(kl, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(grads, torch.autograd.grad(theirs.sum(), (mu, logvar)), rtol=1e-4, atol=1e-4)


def lines(rows: int, dim: int, seconds: float) -> Iterator[tuple[str, float, float]]:
    """What is compared, our seconds, theirs."""
    key = vae_ext.noise_key(1)
    packed = torch.randn(rows, 2 * dim, requires_grad=True)
    values = [half.contiguous() for half in packed.detach().chunk(2, dim=-1)]
    mu, logvar = (t.clone().requires_grad_() for t in values)
    check(mu, logvar, key)

    def fused(mu: Tensor, logvar: Tensor) -> Pair:
        return vae_ext.reparam_kl(mu, logvar, key)

    yield (
        "forward, against torch.randn alone",
        *medians(lambda: fused(values[0], values[1]), lambda: torch.randn(rows, dim), seconds),
    )
    ours = forward_and_backward(fused, mu, logvar)
    eager = forward_and_backward(textbook, mu, logvar)
    compiled = forward_and_backward(compiled_textbook, mu, logvar)
    yield "forward + backward, against eager PyTorch", *medians(ours, eager, seconds)
    yield "forward + backward, against torch.compile", *medians(ours, compiled, seconds)
    if vae_ext.backend() != "reference":
        yield "both kernels without autograd, against eager", *medians(kernels(values[0], values[1], key), eager, seconds)
    whole = forward_and_backward(lambda p: vae_ext.reparam_kl_packed(p, key), packed)
    halves = forward_and_backward(lambda p: fused(*p.chunk(2, dim=-1)), packed)
    yield "packed form, against chunk + reparam_kl", *medians(whole, halves, seconds)


def peak_extra_bytes(rows: int, dim: int) -> int:
    """The most memory that forward + backward hold beyond inputs, outputs and gradients."""
    mu, logvar = (torch.randn(rows, dim, requires_grad=True) for _ in range(2))
    key = vae_ext.noise_key(0)
    run = forward_and_backward(lambda mu, logvar: vae_ext.reparam_kl(mu, logvar, key), mu, logvar)
    with torch.profiler.profile(profile_memory=True) as profile:
        kept = run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak - sum(t.numel() * t.element_size() for t in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of measurement a line (default: 2)")
    seconds = parser.parse_args().seconds
    print(vae_ext.backend_report())
    print(f"{torch.get_num_threads()} threads\n")
    print(f"{'float32':<46} {'shape':>12} {'ours, us':>10} {'theirs, us':>11} {'ratio':>7}")
    for rows, dim in SHAPES:
        for what, ours, theirs in lines(rows, dim, seconds):
            shape = f"[{rows}, {dim}]"
            print(f"{what:<46} {shape:>12} {1e6 * ours:>10.1f} {1e6 * theirs:>11.1f} {theirs / ours:>7.2f}", flush=True)
    extra = ", ".join(f"{peak_extra_bytes(rows, dim):,} at [{rows}, {dim}]" for rows, dim in SHAPES)
    print(f"\npeak memory beyond inputs, outputs and gradients, in bytes: {extra}")


if __name__ == "__main__":
    main()
