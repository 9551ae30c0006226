"""The benchmarks' options, and what their report says of the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vae_ext.backend import compiled_module
from vae_ext.source import ROOT


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="benchmarks: all cases")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """What decides how fast the operator is, in place of all that pytest-benchmark collects; no host's name."""
    cpu = machine_info["cpu"].get("brand_raw", platform.processor())
    module = compiled_module()
    found = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": module.cpu_capability() if module else "none: the kernels are not compiled",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "none",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "compiler": module.build_info()["compiler"] if module else "none",
        "digest": module.build_info()["digest"][:16] if module else "none",
        "commit": commit(),
    }
    machine_info.clear()
    machine_info.update(found)


def commit() -> str:
    """What is measured: the commit, and "-dirty" if code differs from it."""
    head = output("git", "rev-parse", "--short=12", "HEAD")
    changed = output("git", "status", "--porcelain", "--", "csrc", "vae_ext", "setup.py", "pipeline", "tests/benchmarks/*.py")
    return f"{head}-dirty" if head and changed else head or "none"


def output(*command: str) -> str:
    """What a command prints, or nothing where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """A run that is interrupted writes its report too: of all but the line that has no time yet."""
    timed = session.config._benchmarksession  # type: ignore[attr-defined]
    timed.benchmarks = [benchmark for benchmark in timed.benchmarks if benchmark.stats.data]
    yield


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Every single time is megabytes; their medians are enough."""
    for benchmark in output_json["benchmarks"]:
        del benchmark["stats"]["data"]
