"""Runs the benchmarks with pytest-benchmark into a report; `make bench` prints it as a table.

A provider that fails or computes wrong results is named, and the others are still measured; the exit status is 1. An
interrupted run reports what it has measured. Other options are pytest's, such as --full, --seconds 60 (one turn, and more
for that long) and -k.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import whole_file
from pipeline.runtime.main import run
from tests.benchmarks.cases import DEVICES
from tests.benchmarks.report import Report, lines, read_report
from vae_ext import backend, backend_report

REPORT = Path(".benchmarks/report.json")
# Deprecation warnings come from torch.compile inside torch.
OPTIONS = ("-q", "--tb=no", "-W", "ignore::DeprecationWarning", "--benchmark-quiet", "--continue-on-collection-errors")
BENCHMARKS = ("tests/benchmarks/bench_operator.py", "tests/benchmarks/bench_step.py")


def measure(path: Path, options: Sequence[str] = ()) -> Report:
    """Times everything, with progress on the terminal, and writes the report atomically.

    Raises:
        UserError: if a device has no kernels, or nothing could be measured.
    """
    for device in DEVICES:
        if backend(device) != device:
            raise UserError(
                f"{device}: expected vae_ext's kernels, got its reference; there is nothing to measure\n{backend_report()}"
            )
    with whole_file(path) as temporary:
        pytest.main([*OPTIONS, f"--benchmark-json={temporary}", *BENCHMARKS, *options])
        if not temporary.is_file() or temporary.stat().st_size == 0:
            raise UserError("nothing could be measured")
    return read_report(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=REPORT, help=f"where to (default: {REPORT})")
    arguments, options = parser.parse_known_args()
    report = measure(arguments.report, options)
    print("\n".join(lines(report)))
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    run(main)
