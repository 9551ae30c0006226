"""The proof on a machine with an NVIDIA GPU: `make gpu` builds the kernels for it, tests them, and measures them.

In order of value, each part written as it ends, into results/benchmarks/<gpu>/: the repository keeps that. When the budget is
spent, a part that runs is interrupted and what it has measured so far is kept; what was not begun is said.

It runs on the machine's own Python and torch (2.10 or later, built for CUDA) with pytest, pytest-benchmark, hypothesis, numpy,
pandas, matplotlib, pillow, filelock, ninja, an nvcc and, by count, 46 GiB of the GPU's memory; nothing is fetched. With
pytest-xdist the tests run side by side.
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
# Interrupted as by the keyboard, also in a background job, and killed if that does not help in half a minute.
TIMEOUT = ("timeout", "--foreground", "--signal=INT", "--kill-after=30")
TIMED_OUT, NOT_FOUND = 124, 127  # its exit statuses
MEASURED = "measured"

BUILD = "import vae_ext; print(vae_ext.backend_report()); raise SystemExit(vae_ext.backend('cuda') != 'cuda')"
# All that name the GPU; what is compiled without one is tested without one.
TESTS = ("-k", "(cuda or gpu) and not cuda_source and not backend", "tests/vae_ext", "tests/pipeline/test_step.py")
SIDE_BY_SIDE = ("-n", str(min(10, os.cpu_count() or 1))) if importlib.util.find_spec("xdist") else ()
# The largest cases, which are in no cache, and those of docs/speed.md: alone and in CUDA graphs, which Python's time is not in.
FIRST = ("1048576x64", "262144x256", "8192x128", "1024x64", "128x20", "20x50")
SANITIZERS = {"memcheck": ("--report-api-errors=no",), "racecheck": (), "initcheck": (), "synccheck": ()}


class Part(NamedTuple):
    """Commands by name, side by side, which begin if the least is left, in seconds, and are interrupted after the most."""

    least: float
    most: float
    good: str  # what a command's exit status 0 says
    commands: dict[str, list[str]]


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def benchmark(name: str, chosen: str, least: float, most: float) -> Part:
    """Of all benchmarks those that pytest's -k chooses."""
    options = ["--report", str(SCRATCH / f"{name}.json"), "--full", "-k", chosen]
    return Part(least, most, MEASURED, {name: python("-m", "tests.benchmarks.measure", *options)})


def parts() -> list[Part]:
    """In order of value."""
    # Each tensor in an allocation of its own: within torch's pool no access is out of bounds.
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
    """What an exit status says; what was measured until the time was up counts."""
    if status == 0 or (status == TIMED_OUT and part.good == MEASURED):
        return part.good
    if status == NOT_FOUND:
        return "not run: there is no such program here"
    return "failed: not finished" if status == TIMED_OUT else f"failed: exit status {status}"


def run_parts(parts: Iterable[Part], folder: Path, budget: float) -> dict[str, str]:
    """What came of each command, in order, and in checks.json after each part."""
    shutil.rmtree(SCRATCH, ignore_errors=True)  # an earlier run's reports would be taken for this one's
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
    """Of what nothing can be done without, what takes no time to find out first; None if all is there."""
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
