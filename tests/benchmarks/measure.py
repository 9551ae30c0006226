"""Runs the benchmarks: pytest with pytest-benchmark, into a report."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import UserError, run
from pipeline.files import whole_file
from tests.benchmarks.timing import DEVICES
from vae_ext import backend, backend_report

REPORT = Path(".benchmarks/report.json")
OPERATOR, STEP = "tests/benchmarks/bench_operator.py", "tests/benchmarks/bench_step.py"


def measure(report: Path, *options: str, benchmarks: Sequence[str] = (OPERATOR, STEP)) -> None:
    """Times everything, with progress on the terminal, and writes the report whole or not at all.

    Raises:
        UserError: if a device has no kernels, or a provider's results are wrong.
    """
    for device in DEVICES:
        if backend(device) != device:
            raise UserError(
                f"{device}: expected vae_ext's kernels, got its reference; there is nothing to measure\n{backend_report()}"
            )
    # torch's own deprecations, which torch.compile meets, are not the user's.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::DeprecationWarning", "--benchmark-quiet"]
    with whole_file(report) as temporary:
        done = subprocess.run([*command, f"--benchmark-json={temporary}", *benchmarks, *options], check=False)
        if done.returncode != 0:
            raise UserError("the benchmarks failed, as said above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all shapes, also the smallest and the largest")
    parser.add_argument("--report", type=Path, default=REPORT, help=f"where to (default: {REPORT})")
    arguments = parser.parse_args()
    measure(arguments.report, *["--full"] * arguments.full)


if __name__ == "__main__":
    run(main)
