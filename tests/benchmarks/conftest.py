"""How pytest goes through the benchmarks, a turn after the other, and what their report says of the machine and of failures."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vae_ext.backend import compiled_module
from vae_ext.source import ROOT

GRACE = 30.0  # seconds, for the first turn to end in
BEGAN = time.monotonic()
turns: set[int] = set()  # that have begun
failures: dict[str, str] = {}  # why, of a line or of a file that could not be imported


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="benchmarks: all cases")
    parser.addoption("--seconds", type=float, help="benchmarks: one turn, and as many more as should end within so long")


def turn_and_line(item: pytest.Item) -> tuple[int, str]:
    """Of a benchmark; its line is the device, case, mode and provider."""
    params = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    return (params.pop("turn"), " ".join(params.values())) if "turn" in params else (0, "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every line's first turn, then every line's second."""
    items.sort(key=lambda item: turn_and_line(item)[0])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A line that failed is not tried again, and no turn begins that would not end in time."""
    turn, line = turn_and_line(item)
    limit, elapsed = item.config.getoption("seconds", None), time.monotonic() - BEGAN
    if line in failures:
        pytest.skip("failed before")
    begins = turns and turn not in turns
    if limit is not None and (elapsed > limit + GRACE or (begins and elapsed * (len(turns) + 1) / len(turns) > limit)):
        pytest.skip("no time left")
    turns.add(turn)


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    _, line = turn_and_line(item)
    if line and call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        failures[line] = call.excinfo.exconly().splitlines()[0]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        failures[report.nodeid] = report.longreprtext.splitlines()[-1].removeprefix("E").strip()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """A run that is interrupted writes its report too: of all but the line that has no time yet."""
    timed = session.config._benchmarksession  # type: ignore[attr-defined]
    timed.benchmarks = [benchmark for benchmark in timed.benchmarks if benchmark.stats.data]
    yield


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Every single time is megabytes; their medians are enough."""
    output_json["failures"] = failures
    for benchmark in output_json["benchmarks"]:
        del benchmark["stats"]["data"]


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """What decides how fast the operator is, in place of all that pytest-benchmark collects; no host's name."""
    cpu = machine_info["cpu"].get("brand_raw", platform.processor())
    module = compiled_module()
    changed = output("git", "status", "--porcelain", "--", "csrc", "vae_ext", "setup.py", "pipeline", "tests/benchmarks/*.py")
    machine_info.clear()
    machine_info |= {
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
        "commit": (output("git", "rev-parse", "--short=12", "HEAD") or "none") + ("-dirty" if changed else ""),
    }


def output(*command: str) -> str:
    """What a command prints, or nothing where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
