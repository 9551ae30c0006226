"""Extensions of pytest-benchmark: a time limit, and failures and a description of the machine in its report."""

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

BEGAN = time.monotonic()
failures: dict[str, str] = {}  # reasons, by line or by file that could not be imported


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="benchmarks: all cases")
    parser.addoption("--seconds", type=float, help="benchmarks: one turn of all, and more for so long (default: all turns)")


def turn_and_line(item: pytest.Item) -> tuple[int, str]:
    """Returns the turn and the line (device, case, mode and provider) of a benchmark."""
    params = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    return (params.pop("turn"), " ".join(params.values())) if "turn" in params else (0, item.nodeid)


def pytest_runtest_setup(item: pytest.Item) -> None:
    turn, line = turn_and_line(item)
    limit = item.config.getoption("seconds", None)
    if line in failures:
        pytest.skip("failed before")
    if turn > 0 and limit is not None and time.monotonic() - BEGAN > limit:
        pytest.skip("no time left")


def pytest_exception_interact(node: Any, call: pytest.CallInfo[Any], report: pytest.CollectReport | pytest.TestReport) -> None:
    """Records a test's exception, or the last line of the error for a file that could not be imported."""
    assert call.excinfo is not None
    if isinstance(node, pytest.Item):
        failures[turn_and_line(node)[1]] = call.excinfo.exconly().splitlines()[0]
    else:
        failures[node.nodeid] = report.longreprtext.splitlines()[-1].removeprefix("E").strip()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Writes the report of an interrupted run too, without the line that has no timing yet."""
    timed = session.config._benchmarksession  # type: ignore[attr-defined]
    timed.benchmarks = [benchmark for benchmark in timed.benchmarks if benchmark.stats.data]
    yield


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Keeps only medians: all single timings would be megabytes."""
    commit = output_json["commit_info"]
    output_json["machine_info"]["commit"] = commit["id"][:12] + "-dirty" * commit["dirty"]
    output_json["failures"] = failures
    for benchmark in output_json["benchmarks"]:
        del benchmark["stats"]["data"]


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Replaces pytest-benchmark's information with what determines the operator's speed, without the host name."""
    cpu = machine_info["cpu"].get("brand_raw", platform.processor())
    module = compiled_module()
    nvidia = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(nvidia, capture_output=True, text=True, check=False).stdout if shutil.which(nvidia[0]) else "none"
    machine_info.clear()
    machine_info |= {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": module.cpu_capability() if module else "none: the kernels are not compiled",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "driver": driver.strip(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "compiler": module.build_info()["compiler"] if module else "none",
        "digest": module.build_info()["digest"][:16] if module else "none",
    }
