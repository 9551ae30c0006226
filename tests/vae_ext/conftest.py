"""What the operator's tests share. They need torch, pytest, hypothesis and NumPy: no pipeline."""

from __future__ import annotations

from collections.abc import Iterator
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
def each_capability(module: ModuleType) -> Iterator[list[str]]:
    """The instruction sets of this machine; the one in use is put back after the test."""
    before = module.cpu_capability()
    yield module.cpu_capabilities()
    assert module.set_cpu_capability(before)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
