"""Builds, tests and measures the CUDA kernels on a machine with an NVIDIA GPU: `make gpu`.

Runs its parts in order of importance, and writes each part's results into results/benchmarks/<gpu>/, which is in git. When the
budget is spent, a running part is interrupted and its measurements are kept; parts that did not start are listed.

It runs on the machine's own Python and torch (2.10 or later, built for CUDA) with pytest, pytest-benchmark, hypothesis, numpy,
pandas, matplotlib, pillow, filelock, ninja, an nvcc and, by count, 46 GiB of the GPU's memory; nothing is downloaded. With
pytest-xdist the tests run in parallel.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.runtime.files import write_json

RESULTS, SCRATCH = Path("results/benchmarks"), Path(".benchmarks/gpu")
BUDGET = 360.0  # seconds
# Sends SIGINT, also to a background job, and kills it if it has not ended after half a minute.
TIMEOUT = ("timeout", "--foreground", "--signal=INT", "--kill-after=30")
TIMED_OUT, NOT_FOUND = 124, 127  # exit statuses of timeout
MEASURED = "measured"

BUILD = "import vae_ext; print(vae_ext.backend_report()); raise SystemExit(vae_ext.backend('cuda') != 'cuda')"
# All tests whose name contains cuda or gpu, except those that need none.
TESTS = ("-k", "(cuda or gpu) and not cuda_source and not backend", "tests/vae_ext", "tests/pipeline/test_step.py")
SIDE_BY_SIDE = ("-n", str(min(10, os.cpu_count() or 1))) if importlib.util.find_spec("xdist") else ()
# The largest cases, which exceed every cache, and those of docs/speed.md: directly and in CUDA graphs, without Python's time.
FIRST = ("1048576x64", "262144x256", "8192x128", "1024x64", "128x20", "20x50")
SANITIZERS = {"memcheck": ("--report-api-errors=no",), "racecheck": (), "initcheck": (), "synccheck": ()}


class Part(NamedTuple):
    """Named commands that run in parallel; they start if ``least`` seconds are left, and are interrupted after ``most``."""

    least: float
    most: float
    good: str  # description of exit status 0
    commands: dict[str, list[str]]


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def benchmark(name: str, chosen: str, least: float, most: float) -> Part:
    """A part of the benchmarks that pytest's -k selects."""
    options = ["--report", str(SCRATCH / f"{name}.json"), "--full", "-k", chosen]
    return Part(least, most, MEASURED, {name: python("-m", "tests.benchmarks.measure", *options)})


def parts() -> list[Part]:
    """Returns the parts in order of importance."""
    # A separate allocation for each tensor: within torch's memory pool, out-of-bounds accesses would not be detected.
    sanitizer = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--error-exitcode=86"]
    every_kernel = python("-m", "tests.vae_ext.every_kernel", "cuda")
    checks = {name: [*sanitizer, f"--tool={name}", *options, *every_kernel] for name, options in SANITIZERS.items()}
    return [
        Part(0, 600, "built", {"build": ["env", "VAE_EXT_CUDA=1", *python("-c", BUILD)]}),
        Part(30, 150, "passed", {"tests": python("-m", "pytest", "-q", *SIDE_BY_SIDE, *TESTS)}),
        benchmark("kernels", f"cuda and not step and (graph or copy) and ({' or '.join(FIRST)})", 30, 60),
        benchmark("operator", "cuda and not step and (fused or copy or eager or graph)", 50, 75),
        benchmark("step", "cuda and step and not example and not reference", 40, 60),
        Part(40, 120, "clean", checks),
        benchmark("compile", "cuda and compile and both", 50, 90),
        benchmark("example", "cuda and tensors", 40, 60),
        benchmark("rest", "cuda", 120, 1200),
    ]


def verdict(part: Part, status: int) -> str:
    """Describes an exit status; measurements before the time limit count."""
    if status == 0 or (status == TIMED_OUT and part.good == MEASURED):
        return part.good
    if status == NOT_FOUND:
        return "not run: there is no such program here"
    return "failed: not finished" if status == TIMED_OUT else f"failed: exit status {status}"


def run_parts(parts: Iterable[Part], folder: Path, budget: float) -> dict[str, str]:
    """Returns the verdict on each command, in order; also writes checks.json after each part."""
    shutil.rmtree(SCRATCH, ignore_errors=True)  # reports of an earlier run would be mistaken for this one's
    SCRATCH.mkdir(parents=True)
    began = time.monotonic()
    verdicts: dict[str, str] = {}
    for part in parts:
        left = budget - (time.monotonic() - began)
        if left < part.least:
            missing = f"not run: it takes {part.least:.0f} s, and {max(0.0, left):.0f} s of {budget:.0f} s were left"
            verdicts |= dict.fromkeys(part.commands, missing)
        else:
            limit = str(min(left, part.most))
            running = {name: subprocess.Popen([*TIMEOUT, limit, *command]) for name, command in part.commands.items()}
            verdicts |= {name: verdict(part, process.wait()) for name, process in running.items()}
            if part.good == MEASURED and (reports := sorted(SCRATCH.glob("*.json"), key=os.path.getmtime)):
                command = python("-m", "tests.benchmarks.report", "--folder", str(folder), *map(str, reports))
                subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        for name in part.commands:
            print(f"{time.monotonic() - began:4.0f} s  {name}: {verdicts[name]}", flush=True)
        write_json(folder / "checks.json", verdicts)
        if verdicts.get("build", "built") != "built":
            break
    return verdicts


def what_is_missing() -> str | None:
    """Returns what is missing, cheapest check first, or None if everything is there."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "an NVIDIA GPU; there is no driver of one here (libcuda.so.1)"
    if importlib.util.find_spec("torch") is None:
        return f"torch, built for CUDA; {sys.executable} has none (make gpu PYTHON=...)"
    import torch

    return None if torch.cuda.is_available() else f"an NVIDIA GPU; torch {torch.__version__} sees none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"for all (default: {BUDGET:.0f})")
    arguments = parser.parse_args()
    if missing := what_is_missing():
        print(f"error: make gpu needs {missing}", file=sys.stderr)
        sys.exit(2)
    import torch

    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "{}.{}".format(*torch.cuda.get_device_capability()))
    folder = RESULTS / re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower()
    verdicts = run_parts(parts(), folder, arguments.budget)
    print(f"written: {folder}")
    sys.exit(any(word.startswith("failed") for word in verdicts.values()))


if __name__ == "__main__":
    main()
