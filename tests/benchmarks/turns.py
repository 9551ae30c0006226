"""Times the fused operator of the vae_ext that is imported, for compare.py, which asks for a turn at a time.

To "DEVICE CASE MODE" it answers the seconds of a call, or in a text why there are none. On a CPU they are the seconds that one
thread computes: other programs prolong those of the clock on the wall, and of threads that wait for each other above all.
"""

from __future__ import annotations

import functools
import json
import sys
import time

import torch

from tests.benchmarks.providers import Call, bench_of
from tests.benchmarks.timing import CLOCKS
from vae_ext import backend

TURN = 2e-3  # seconds


def seconds(run: Call, calls: int, device: str) -> float:
    clock = time.thread_time if device == "cpu" else CLOCKS[device]
    began = clock()
    for _ in range(calls):
        run()
    return (clock() - began) / calls


@functools.cache
def prepared(device: str, case: str, mode: str) -> tuple[Call, int]:
    """The call, proved right, and how many of it are a turn."""
    assert backend(device) == device, f"expected vae_ext's kernels on {device}, got its reference"
    run = bench_of(case, device).call(mode, "fused")
    return run, max(1, round(TURN / seconds(run, 3, device)))


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        device, case, mode = line.split()
        try:
            run, calls = prepared(device, case, mode)
            answer: float | str = seconds(run, calls, device)
        except Exception as error:  # whatever an operator of that commit does not know
            answer = f"{type(error).__name__}: {error}".splitlines()[0]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
