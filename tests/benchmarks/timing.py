"""How benchmarks are timed: clock and duration.

Timings vary with load, for seconds to minutes. So providers that are compared are timed one after the other, a turn each, in up
to fifteen rounds; a provider's time is that of its best turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import pytest
import torch.utils.benchmark

# torch's timer synchronises the GPU, so that two calls around a piece of work time all of it.
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.perf_counter, "cuda": torch.utils.benchmark.timer}


def seconds_of(run: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Returns the mean seconds per call over several calls."""
    began = clock()
    for _ in range(calls):
        run()
    return (clock() - began) / calls


def print_medians(other: str, rates: Sequence[tuple[float, float]]) -> None:
    """Prints the medians of our and the other's images per second, from a pair per turn, and the median of their ratios."""
    ours, theirs = zip(*rates, strict=True)
    ratios = [mine / yours for mine, yours in rates]
    print(f"medians of {len(ratios)} turns each, and of the ratios of turns next to each other")
    print(f"pipeline {statistics.median(ours):>9,.1f} images/s")
    print(f"{other:<8} {statistics.median(theirs):>9,.1f} images/s")
    print(f"ratio    {statistics.median(ratios):>9.2f}   (from {min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def parametrize(metafunc: pytest.Metafunc, turns: int, lines: Sequence[tuple[str, ...]], seconds: float) -> None:
    """Parametrizes a benchmark with each line (device, case, mode, provider) and pytest-benchmark's settings for one turn.

    Turns have session scope, so that pytest runs the first turn of every line, then the second of every line.
    """
    # On a GPU a round is a burst of calls: it times the device or, if that is faster, the launches.
    burst = {"cpu": 0.0, "cuda": 2e-3}
    marks = {
        device: pytest.mark.benchmark(timer=clock, min_time=burst[device], max_time=seconds, min_rounds=1, disable_gc=True)
        for device, clock in CLOCKS.items()
    }
    metafunc.parametrize("turn", range(turns), scope="session")
    metafunc.parametrize("device,case,mode,provider", [pytest.param(*line, marks=marks[line[0]]) for line in lines])
