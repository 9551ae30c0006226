"""The operators against the reference, eager PyTorch and torch.compile: time and memory, a case at a time."""

from __future__ import annotations

import functools

import pytest
import torch
import torch._functorch.config
import torch._inductor.config
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.bench import GPU_ALONE, Bench, peak_bytes
from tests.benchmarks.cases import GPU, chosen, of_pixels
from tests.benchmarks.pixels import PixelBench
from tests.benchmarks.timing import DEVICES, TURNS, timed

# One function for many shapes: by default dynamo stops at eight.
torch._dynamo.config.recompile_limit = 256
# torch's caches of compiled code do not tell a backward pass that may write over what its graph keeps from one that may not.
torch._functorch.config.enable_autograd_cache = False
torch._inductor.config.fx_graph_cache = False
MEMORY = ("fused", "eager", "compile")
TOO_LARGE = {case.name for case in GPU}  # for the reference, whose graph keeps 130 bytes an element


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("full")
    chosen_cases = [(device, case.name) for device in DEVICES for case in chosen(device, full)]
    if metafunc.function is test_memory:
        lines = [pytest.param(*case, provider) for case in chosen_cases for provider in MEMORY]
        metafunc.parametrize("device,case,provider", lines)
    else:
        lines = [
            pytest.param(device, case, mode, provider, turn, marks=timed(device))
            for turn in TURNS
            for device, case in chosen_cases
            for mode, providers in class_of(case).measured.items()
            for provider in providers
            if (device == "cuda" or provider not in GPU_ALONE) and not (provider == "reference" and case in TOO_LARGE)
        ]
        metafunc.parametrize("device,case,mode,provider,turn", lines)


def class_of(case: str) -> type[Bench]:
    return PixelBench if of_pixels(case) else Bench


@functools.cache
def bench_of(case: str, device: str) -> Bench:
    return class_of(case)(case, device)


@pytest.fixture
def bench(case: str, device: str) -> Bench:
    """The inputs of a case, and the calls on them: the same for every turn."""
    return bench_of(case, device)


def test_time(benchmark: BenchmarkFixture, bench: Bench, mode: str, provider: str, turn: int) -> None:
    call = bench.call(mode, provider)  # which checks it against the reference first
    benchmark.extra_info["bytes"] = bench.case.bytes_moved(mode)
    benchmark(call)


def test_memory(benchmark: BenchmarkFixture, bench: Bench, provider: str) -> None:
    benchmark.extra_info["peak_bytes"] = peak_bytes(bench, provider)
    benchmark.pedantic(bench.call("both", provider))  # so that the number stands in the report
