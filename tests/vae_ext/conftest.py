"""What the operator's tests share. They need torch, pytest, hypothesis and NumPy: no pipeline."""

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
    """A device that has a kernel; where there is none these tests fail, for they would compare the reference with itself."""
    assert backend(request.param) == request.param, backend_report()
    return torch.device(request.param)


@pytest.fixture
def module() -> ModuleType:
    """The compiled module. Where it is missing these tests fail: a machine that tests the kernels can compile them."""
    module = compiled_module()
    assert module is not None, backend_report()
    return module


@pytest.fixture
def each_cpu(module: ModuleType) -> Iterator[Callable[[], Iterator[str]]]:
    """Sets each instruction set of this machine in turn, with one thread and with two; what was set is put back at the end."""
    capability, threads = module.cpu_capability(), torch.get_num_threads()

    def each() -> Iterator[str]:
        for name, count in itertools.product(module.cpu_capabilities(), (1, 2)):
            assert module.set_cpu_capability(name)
            torch.set_num_threads(count)
            yield f"{name}, {count} threads"

    yield each
    assert module.set_cpu_capability(capability)
    torch.set_num_threads(threads)
