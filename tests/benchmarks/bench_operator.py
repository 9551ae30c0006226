"""The operators against the reference, eager PyTorch and torch.compile: time and memory, a case at a time."""

from __future__ import annotations

import pytest
import torch
import torch._functorch.config
import torch._inductor.config
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.cases import DEVICES, chosen
from tests.benchmarks.providers import bench_of, measured, peak_bytes
from tests.benchmarks.timing import parametrize

# torch's caches of compiled code do not tell a backward pass that may write over what its graph keeps from one that may not.
torch._functorch.config.enable_autograd_cache = False
torch._inductor.config.fx_graph_cache = False
MEMORY = ("fused", "eager", "compile")  # whose is measured, of both passes


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("full")
    lines = [(d, case.name, *line) for d in DEVICES for case in chosen(d, full) for line in measured(case.name, d)]
    parametrize(metafunc, 15, lines, seconds=0.03)


def test_time(benchmark: BenchmarkFixture, device: str, case: str, mode: str, provider: str, turn: int) -> None:
    bench = bench_of(case, device)
    call = bench.call(mode, provider)  # which checks it against the reference first
    benchmark.extra_info["bytes"] = bench.case.bytes_moved(mode)
    if turn == 0 and mode == "both" and provider in MEMORY:
        benchmark.extra_info["peak_bytes"] = peak_bytes(call, device)
    benchmark(call)
