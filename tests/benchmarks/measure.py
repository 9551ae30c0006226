"""Runs the benchmarks: pytest with pytest-benchmark, into a report."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import UserError, run

REPORT = Path(".benchmarks/report.json")
OPERATOR, STEP = "tests/benchmarks/bench_operator.py", "tests/benchmarks/bench_step.py"


def measure(report: Path, *options: str, benchmarks: Sequence[str] = (OPERATOR, STEP)) -> None:
    """Times everything, with progress on the terminal, and writes the report whole or not at all.

    Raises:
        UserError: if a provider's results are wrong, or nothing was chosen.
    """
    report.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-quiet", f"--benchmark-json={report}", *benchmarks, *options]
    # torch's own deprecations, which torch.compile meets, are not the user's.
    if subprocess.run([*command, "-W", "ignore::DeprecationWarning"], check=False).returncode != 0:
        report.unlink(missing_ok=True)
        raise UserError("the benchmarks failed, as said above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all shapes, also the smallest and the largest")
    parser.add_argument("--report", type=Path, default=REPORT, help=f"where to (default: {REPORT})")
    arguments = parser.parse_args()
    measure(arguments.report, *["--full"] * arguments.full)


if __name__ == "__main__":
    run(main)
