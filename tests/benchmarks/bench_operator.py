"""The operators compared with the reference, eager PyTorch and torch.compile: time and memory, case by case."""

from __future__ import annotations

import pytest
import torch
import torch._functorch.config
import torch._inductor.config
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.cases import DEVICES, chosen
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.providers import bench_of, measured
from tests.benchmarks.timing import parametrize

# torch's cache of compiled code does not distinguish backward passes that may overwrite saved tensors from those that may not.
torch._functorch.config.enable_autograd_cache = False
torch._inductor.config.fx_graph_cache = False
MEMORY = ("fused", "eager", "compile")  # providers whose memory is measured, in both passes


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("full")
    lines = [(d, case.name, *line) for d in DEVICES for case in chosen(d, full) for line in measured(case.name, d)]
    parametrize(metafunc, 15, lines, seconds=0.03)


def test_time(benchmark: BenchmarkFixture, device: str, case: str, mode: str, provider: str, turn: int) -> None:
    bench = bench_of(case, device)
    call = bench.call(mode, provider)  # first checks it against the reference
    benchmark.extra_info["bytes"] = bench.case.bytes_moved(mode)
    if turn == 0 and mode == "both" and provider in MEMORY:
        benchmark.extra_info["peak_bytes"] = peak_bytes(call, device)
    benchmark(call)
