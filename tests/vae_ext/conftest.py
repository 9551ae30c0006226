"""Fixtures of the operator's tests. They need torch, pytest, hypothesis and NumPy, but not the pipeline."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from vae_ext.backend import backend, backend_report, compiled_module

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_GPU, reason="no GPU"))])
def device(request: pytest.FixtureRequest) -> torch.device:
    """A device with a kernel; without one these tests fail, since they would compare the reference with itself."""
    assert backend(request.param) == request.param, backend_report()
    return torch.device(request.param)


@pytest.fixture
def module() -> ModuleType:
    """The compiled module. Without it these tests fail: a machine that tests the kernels can compile them."""
    module = compiled_module()
    assert module is not None, backend_report()
    return module


@pytest.fixture
def each_cpu(module: ModuleType) -> Iterator[Callable[[], Iterator[str]]]:
    """Selects each instruction set of this machine in turn, with one and with two threads; restores both at the end."""
    capability, threads = module.cpu_capability(), torch.get_num_threads()

    def each() -> Iterator[str]:
        for name, count in itertools.product(module.cpu_capabilities(), (1, 2)):
            assert module.set_cpu_capability(name)
            torch.set_num_threads(count)
            yield f"{name}, {count} threads"

    yield each
    assert module.set_cpu_capability(capability)
    torch.set_num_threads(threads)
