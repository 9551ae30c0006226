"""Checks whether the operator has become slower than at a commit: `make bench-compare` measures both in alternating turns.

The operator of this tree and that of the commit run in a process each, in alternating turns of two milliseconds, so that load
on the machine slows both; each pair of turns gives a ratio of times. A case looks slower if the median of its ratios exceeds
the threshold. Since timings also depend on the memory layout of a process, a case that looks slower is measured again in new
processes, up to four times, and counts as slower only if it does each time.

On a CPU a time is the CPU time of one thread: other programs prolong wall-clock time, especially of threads that wait for each
other. So how well two threads share the work is not compared.

exit status: 0 if no case became slower; 1 if one did, or fails here; 2 without a commit to compare with
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch

from pipeline.runtime.errors import UserError, in_line
from pipeline.runtime.main import run
from tests.benchmarks.cases import DEVICES, chosen
from tests.benchmarks.timing import CLOCKS, seconds_of

ROOT = Path(__file__).resolve().parents[2]
MODES = ("forward", "backward", "both")
THRESHOLD = 1.08
PAIRS = 40
AGAIN = 4
TURN = 2e-3  # seconds
# Freed memory serves the next result; otherwise malloc returns it to the system or not, depending on the process.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def extract(revision: str, folder: Path) -> None:
    """Extracts the operator of a commit into a folder.

    Raises:
        UserError: if the commit does not exist.
    """
    command = ["git", "archive", "--format=tar", revision, "csrc", "vae_ext", "setup.py"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        raise UserError(f"{revision}: expected a commit with vae_ext: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)


def operator_of(tree: Path) -> ProcessPoolExecutor:
    """Returns a process with a tree's operator, timed by the code of this tree."""
    with mock.patch.dict(os.environ, MALLOC):
        process = ProcessPoolExecutor(1, get_context("spawn"), import_from, (str(tree),))
        process.submit(int).result()  # the process starts with its first task
    return process


def import_from(tree: str) -> None:
    """Makes this process import vae_ext from a tree, and use one thread."""
    sys.path.insert(0, tree)
    torch.set_num_threads(1)


@functools.cache
def prepared(line: str) -> tuple[Callable[[], object], int, Callable[[], float]]:
    """Returns the checked call, the number of calls per turn, and the clock."""
    from tests.benchmarks.providers import bench_of  # imports vae_ext, from this process's tree
    from vae_ext import backend

    device, case, mode = line.split()
    assert backend(device) == device, f"expected vae_ext's kernels on {device}, got its reference"
    call, clock = bench_of(case, device).call(mode, "fused"), time.thread_time if device == "cpu" else CLOCKS[device]
    return call, max(1, round(TURN / seconds_of(call, 3, clock))), clock


def take_turn(line: str) -> float:
    """Returns the seconds of a call."""
    return seconds_of(*prepared(line))


def ratios_of(lines: Sequence[str], base: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Returns for each line the median ratio of turns in new processes, and the reasons of those that fail here.

    Raises:
        BrokenProcessPool: if a process ends.
    """
    pairs: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    with operator_of(ROOT) as here, operator_of(base) as there:
        for line in lines:  # checks and warms up each
            reasons = {side: side.submit(take_turn, line).exception() for side in (here, there)}
            if reasons[here]:
                failures[line] = in_line(repr(reasons[here]), 200)
            elif reasons[there]:  # unknown to the operator of that commit
                print(f"note: {line}: not compared, because it fails there: {in_line(repr(reasons[there]), 200)}")
            else:
                pairs[line] = []
        for turn in range(PAIRS):
            for line, ratios in pairs.items():
                sides = (here, there) if turn % 2 else (there, here)
                seconds = {side: side.submit(take_turn, line).result() for side in sides}
                ratios.append(seconds[here] / seconds[there])
    return {line: statistics.median(ratios) for line, ratios in pairs.items()}, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD", help="the commit to compare with (default: HEAD)")
    parser.add_argument("--only", default="", metavar="TEXT", help='lines with this in them, such as "cpu 1024x64 both"')
    arguments = parser.parse_args()
    lines = [f"{device} {case.name} {mode}" for device in DEVICES for case in chosen(device, full=False) for mode in MODES]
    with tempfile.TemporaryDirectory() as folder:
        extract(arguments.base, Path(folder))
        try:
            least, failures = ratios_of([line for line in lines if arguments.only in line], Path(folder))
        except BrokenProcessPool as error:  # the operator crashed
            raise UserError(f"{error}") from None
        if not least and not failures:
            raise UserError(f"nothing to compare: no case that {arguments.base} can compute")
        for line, ratio in least.items():
            print(f"{line:<30} {ratio:.2f}")
        for count in range(1, AGAIN + 1):
            suspects = [line for line, ratio in least.items() if ratio > THRESHOLD]
            if not suspects:
                break
            print(f"looks slower: {'; '.join(suspects)}: measured again, {count} of at most {AGAIN}", flush=True)
            again, _ = ratios_of(suspects, Path(folder))
            least |= {line: min(least[line], ratio) for line, ratio in again.items()}
    slower = {line: ratio for line, ratio in least.items() if ratio > THRESHOLD}
    for line, ratio in slower.items():
        print(f"slower: {line}: at least {ratio:.2f} times the time of {arguments.base}, in each of {AGAIN + 1} measurements")
    for line, reason in failures.items():
        print(f"failed: {line}: {reason}")
    more = f"{THRESHOLD - 1:.0%}"
    print(f"{len(slower) or 'none'} of {len(least)} cases became slower than at {arguments.base} by more than {more}")
    sys.exit(bool(slower or failures))


if __name__ == "__main__":
    run(main)
