"""The kernels' own time on a GPU: calls in a CUDA graph, replayed, beside a plain copy of as many bytes in another.

The table's calls come from Python one by one, so where the GPU is quicker than Python they time Python.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.runtime.files import write_json
from tests.benchmarks.cases import CASES
from tests.benchmarks.providers import Bench, capture, copy_of
from tests.benchmarks.report import digits
from tests.benchmarks.timing import CLOCKS, seconds_of

# 2^26 elements, which are in no cache; one that is; and small calls, which are launches and little else.
LARGE = ("1048576x64", "262144x256", "1048576x64-bfloat16", "262144x256-bfloat16")
SHOWN = (*LARGE, "8192x128", "1024x64", "128x20", "20x50-K50")
CALLS = 10  # in a graph, of what takes microseconds
REPLAYS, ROUNDS = 100, 7


def seconds(run: Callable[[], object], calls: int) -> float:
    """Of one call: the median of the rounds."""

    def run_all() -> object:
        for _ in range(calls - 1):
            run()  # whose memory the next call writes to again, as in a training loop
        return run()

    replay, _ = capture(run_all)
    rounds = [seconds_of(replay, REPLAYS, CLOCKS["cuda"]) / calls for _ in range(1 + ROUNDS)]
    return statistics.median(rounds[1:])  # the first warms up


def time_of(name: str, device: str = "cuda") -> dict[str, float]:
    """Microseconds of the forward pass and of what the backward pass adds, GB/s of a copy, and the share of it that each is."""
    case, bench, calls = CASES[name], Bench(name, device), 1 if name in LARGE else CALLS
    bench.check(*bench.both(bench.fused), ours=True)
    forward = seconds(bench.forward(bench.fused), calls)
    backward = seconds(functools.partial(bench.both, bench.fused), calls) - forward
    copy = case.bytes_moved("forward") / seconds(copy_of(case.bytes_moved("forward"), device), calls)
    found = {"forward_us": 1e6 * forward, "backward_us": 1e6 * backward, "copy_gb_s": 1e-9 * copy}
    for mode, took in (("forward", forward), ("backward", backward)):
        found[f"{mode}_of_copy"] = case.bytes_moved(mode) / took / copy
    return {key: digits(value) for key, value in found.items()}


def main() -> None:
    """Each case that is shown, into the file that is named, as it is measured."""
    times = {}
    for case in SHOWN:
        times[case] = time_of(case)
        print(f"{case}: {times[case]}", flush=True)
        write_json(Path(sys.argv[1]), times)


if __name__ == "__main__":
    main()
