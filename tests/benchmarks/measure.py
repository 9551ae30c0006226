"""Runs the benchmarks, pytest with pytest-benchmark, into a report; `make bench` prints it as a table.

A provider that fails, or computes something wrong, is named, and the others are measured all the same; the exit status is 1.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import whole_file
from pipeline.runtime.main import run
from tests.benchmarks.cases import DEVICES
from tests.benchmarks.report import Report, lines, read_report
from vae_ext import backend, backend_report

REPORT = Path(".benchmarks/report.json")
GRACE = 15.0  # seconds, for what is interrupted to write its report in
OPERATOR, STEP = "tests/benchmarks/bench_operator.py", "tests/benchmarks/bench_step.py"


def run_within(command: Sequence[str], seconds: float | None) -> int | None:
    """The exit status; None if the time was up: it is interrupted as by the keyboard, and killed if that does not help."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job, where programs inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
    return None


def measure(path: Path, *options: str, benchmarks: Sequence[str] = (OPERATOR, STEP), within: float | None = None) -> Report:
    """Times everything, with progress on the terminal, and writes the report whole or not at all.

    within: seconds, after which it is interrupted, and the report is of what was measured until then.

    Raises:
        UserError: if a device has no kernels, or nothing could be measured.
    """
    for device in DEVICES:
        if backend(device) != device:
            raise UserError(
                f"{device}: expected vae_ext's kernels, got its reference; there is nothing to measure\n{backend_report()}"
            )
    # torch's own deprecations, which torch.compile meets, are not the user's.
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-W", "ignore::DeprecationWarning", "--benchmark-quiet"]
    command.append("--continue-on-collection-errors")
    with whole_file(path) as temporary:
        code = run_within([*command, f"--benchmark-json={temporary}", *benchmarks, *options], within)
        # 1: something failed. What the user interrupted, or what had nothing to do, is no report.
        if code not in (None, 0, 1) or not temporary.is_file() or temporary.stat().st_size == 0:
            raise UserError("nothing could be measured, or not to the end")
    return read_report(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all shapes, also the smallest and the largest")
    parser.add_argument("--seconds", type=float, help="one turn, and more that should end within so long (default: 15)")
    parser.add_argument("--report", type=Path, default=REPORT, help=f"where to (default: {REPORT})")
    arguments = parser.parse_args()
    limit = [] if arguments.seconds is None else [f"--seconds={arguments.seconds}"]
    report = measure(arguments.report, *["--full"] * arguments.full, *limit)
    print("\n".join(lines(report)))
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    run(main)
