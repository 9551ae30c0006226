"""The kernels' own time on a GPU: calls in a CUDA graph, replayed, beside a plain copy of as many bytes in another.

The table's calls come from Python one by one, so where the GPU is quicker than Python they time Python.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.runtime.files import write_json
from tests.benchmarks.cases import CASES
from tests.benchmarks.providers import Bench, Tensors, capture
from tests.benchmarks.report import digits
from tests.benchmarks.timing import CLOCKS

# Small calls, which are launches and little else; one in the cache; and 2^26 elements, which are not.
LARGE = tuple(f"{shape}{dtype}" for shape in ("1048576x64", "262144x256") for dtype in ("", "-bfloat16"))
SHOWN = (*LARGE, "8192x128", "1024x64", "128x20", "20x50-K50")
CALLS = 10  # in a graph, of what takes microseconds
REPLAYS, ROUNDS = 5, 7


def seconds(run: Callable[[], Tensors], calls: int) -> float:
    """Of one call: the median of the rounds."""

    def run_all() -> tuple[Tensors, Tensors]:
        for _ in range(calls - 1):
            run()  # whose memory the next call writes to again, as in a training loop
        return run(), ()

    replay, _ = capture(run_all)
    clock = CLOCKS["cuda"]
    rounds = []
    for _ in range(1 + ROUNDS):  # the first warms up
        began = clock()
        for _ in range(REPLAYS):
            replay()
        rounds.append((clock() - began) / REPLAYS / calls)
    return statistics.median(rounds[1:])


def time_of(case: str, device: str = "cuda") -> dict[str, float]:
    """Microseconds of the forward pass and of what the backward pass adds, GB/s of a copy, and the share of it that each is."""
    bench, calls = Bench(case, device).on_leaves_of_its_own(), 1 if case in LARGE else CALLS
    values = [t.detach() if isinstance(t, Tensor) else t for t in bench.inputs]

    def run_both() -> Tensors:
        outputs, gradients = bench.both(bench.fused)
        return *outputs, *gradients

    bench.check(*bench.both(bench.fused), ours=True)
    forward, both = seconds(functools.partial(bench.fused, *values), calls), seconds(run_both, calls)
    source = torch.randn(CASES[case].bytes_moved("forward") // 8, device=device)  # four bytes in, four out
    target = torch.empty_like(source)
    copy = CASES[case].bytes_moved("forward") / seconds(lambda: (target.copy_(source),), calls)
    return times_of(case, forward, both - forward, copy)


def times_of(case: str, forward: float, backward: float, copy: float) -> dict[str, float]:
    """For seconds of the passes, and bytes a second of a copy."""
    found = {"forward_us": 1e6 * forward, "backward_us": 1e6 * backward, "copy_gb_s": 1e-9 * copy}
    for mode, took in (("forward", forward), ("backward", backward)):
        found[f"{mode}_of_copy"] = CASES[case].bytes_moved(mode) / took / copy
    return {name: digits(value) for name, value in found.items()}


def main() -> None:
    """Each case that is shown, into the file that is named, as it is measured."""
    times = {}
    for case in SHOWN:
        times[case] = time_of(case)
        print(f"{case}: {times[case]}", flush=True)
        write_json(Path(sys.argv[1]), times)


if __name__ == "__main__":
    main()
