"""Every provider is correct, named, and timed with the right clock. Nothing is timed here."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks import bench_step, providers
from tests.benchmarks.cases import Case
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.providers import (
    Bench,
    PixelBench,
    PriorBench,
    bench_of,
    cross_entropy,
    measured,
    textbook,
    textbook_with_prior,
)

ALL = [(case, *line) for case in ("128x2", "128x784-pixels", "128x20-prior") for line in measured(case, "cuda")]
OTHER_KINDS = [
    (case, "both", provider)
    for case in ("1x20", "20x50-K50", "1024x64-bfloat16", "20x784-K50-pixels")
    for provider in ("fused", "reference", "eager")
]


@pytest.mark.parametrize(("case", "mode", "provider"), [*ALL, *OTHER_KINDS])
def test_every_provider_matches_the_reference(monkeypatch: pytest.MonkeyPatch, case: str, mode: str, provider: str) -> None:
    if mode != "both" or case.endswith("prior"):  # compiled to machine code only for both passes: it takes seconds
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(providers, "capture", lambda run: (run, run()))  # stands in for a CUDA graph, without a GPU
    bench_of.__wrapped__(case, "cpu").call(mode, provider)()


def test_the_kernels_hold_less_memory_than_eager_pytorch() -> None:
    fused, eager = (peak_bytes(bench_of("128x20", "cpu").call("both", provider), "cpu") for provider in ("fused", "eager"))
    assert fused < 4 * 128 * 20 < eager  # one tensor of a value an element


def noise_that_comes_again(mu: Tensor, logvar: Tensor, *_: Any) -> Any:
    eps = torch.randn(1, mu.shape[1])
    eps = (eps - eps.mean()) / eps.std(correction=0)  # as normal as its moments can tell
    return mu + torch.exp(0.5 * logvar) * eps, textbook(mu, logvar)[1]


def kl_of_variance_one(mu: Tensor, logvar: Tensor, *_: Any) -> Any:
    return textbook(mu, logvar)[0], textbook(mu, 0 * logvar)[1]


def gradient_that_stops_at_sigma(mu: Tensor, logvar: Tensor, *_: Any) -> Any:
    return textbook(mu, logvar.detach())[0], textbook(mu, logvar)[1]


def gradient_of_zero(logits: Tensor, *others: Tensor) -> Any:
    return (cross_entropy(logits.detach(), *others)[0] + 0 * logits.sum(),)


def kl_without_its_prior(mu: Tensor, logvar: Tensor, key: Any, samples: Any, *prior: Tensor) -> Any:
    return textbook(mu, logvar)[0], textbook(mu, logvar)[1] + 0 * sum(t.sum() for t in prior)


def gradient_that_stops_at_the_prior(mu: Tensor, logvar: Tensor, key: Any, samples: Any, *prior: Tensor) -> Any:
    return textbook_with_prior(mu, logvar, key, samples, prior[0], prior[1].detach() + 0 * prior[1])


@pytest.mark.parametrize(
    ("of", "provider", "wrong", "fault"),
    [
        (Bench, "eager", lambda mu, logvar, *_: textbook(mu, 2 * logvar), "expected noise of variance 1"),
        (Bench, "eager", noise_that_comes_again, "expected independent noise along axis 0"),
        (Bench, "eager", kl_of_variance_one, "kl:"),
        (Bench, "eager", gradient_that_stops_at_sigma, "gradient of logvar:"),
        (Bench, "fused", textbook, "z:"),  # other noise than the key's
        (PriorBench, "eager", kl_without_its_prior, "kl:"),
        (PriorBench, "eager", gradient_that_stops_at_the_prior, "gradient of prior_logvar:"),
        (PixelBench, "eager", lambda logits, pixels, x: cross_entropy(logits, pixels, 0 * x), "log_prob:"),
        (PixelBench, "eager", gradient_of_zero, "gradient of logits:"),
    ],
)
def test_a_wrong_provider_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, of: type[Bench], provider: str, wrong: Any, fault: str
) -> None:
    monkeypatch.setattr(of, provider, staticmethod(wrong))
    with pytest.raises(AssertionError, match=fault):
        of({PixelBench: "128x784-pixels", PriorBench: "1024x64-prior"}.get(of, "1024x64"), "cpu").call("both", provider)


@pytest.mark.parametrize("provider", bench_step.providers_on("cpu"))
def test_steps_call_the_kernels_except_those_of_the_reference_and_the_example(provider: str) -> None:
    epoch = bench_step.PROVIDERS[provider](bench_step.images_of("cpu")[: 2 * bench_step.BATCH], "cpu")
    with torch.profiler.profile() as profile:
        epoch()
    calls = any(event.key.startswith("vae_ext::") for event in profile.key_averages())
    assert calls == (provider in ("fused", "autograd"))


def test_a_gpu_has_more_providers_than_a_cpu() -> None:
    bench_step.products(bench_step.images_of("cpu")[: bench_step.BATCH], "meta")()  # nothing of it stays on the CPU
    assert {*bench_step.providers_on("cuda")} - {*bench_step.providers_on("cpu")} == {"no graph"}
    assert {*measured("128x20", "cuda")} - {*measured("128x20", "cpu")} == {("forward", "graph"), ("both", "graph")}


def test_the_bytes_of_a_case_equal_those_of_its_tensors() -> None:
    mu, z, kl = 4 * 10 * 4, 3 * 4 * 10 * 4, 4 * 10
    pixels, log_prob = 10 * 4, 4 * 3 * 10
    for case, forward, backward in (
        (Case(10, 4, samples=3), 2 * mu + z + kl, 4 * mu + z + kl),
        (Case(10, 4, samples=3, prior=True), 4 * mu + z + kl, 8 * mu + z + kl),
        (Case(10, 4, samples=3, pixels=True), z + pixels + log_prob, 2 * z + pixels + log_prob),
    ):
        moved = [case.bytes_moved(mode) for mode in ("forward", "backward", "both")]
        assert moved == [forward, backward, forward + backward]
