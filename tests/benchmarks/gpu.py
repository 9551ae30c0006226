"""The proof on a machine with an NVIDIA GPU: `make gpu` builds the kernels for it, tests them, and measures them.

In order of value, each part written as it ends, into results/benchmarks/<gpu>/: the repository keeps that. When the budget is
spent, a part that runs is interrupted and what it has measured so far is kept; what was not begun is said.

It runs on the machine's own Python and torch (2.10 or later, built for CUDA) with pytest, pytest-benchmark, hypothesis, numpy,
pandas, matplotlib, pillow, filelock, ninja, an nvcc and, by count, 40 GiB of the GPU's memory; nothing is fetched. With
pytest-xdist the tests run side by side.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import re
import sys
from pathlib import Path

RESULTS = Path("results/benchmarks")
BUDGET = 360.0  # seconds


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
    from tests.benchmarks.gpu_parts import PARTS, run_parts  # imports vae_ext, which builds the kernels

    folder = RESULTS / re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower()
    verdicts = run_parts(PARTS, folder, arguments.budget)
    print(f"written: {folder}")
    sys.exit(any(verdict.startswith("failed") for verdict in verdicts.values()))


if __name__ == "__main__":
    main()
