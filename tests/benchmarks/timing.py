"""How time is taken: by which clock, for how long.

Timings vary with load, for seconds to minutes. So what is compared is timed one after the other, a turn each, and the whole
round is gone through up to fifteen times: a provider counts with its best turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
import torch.utils.benchmark

# torch's synchronises the GPU: two calls around a piece of work time all of it.
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.perf_counter, "cuda": torch.utils.benchmark.timer}


def seconds_of(run: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Of one call, by the mean of several."""
    began = clock()
    for _ in range(calls):
        run()
    return (clock() - began) / calls


def parametrize(metafunc: pytest.Metafunc, turns: int, lines: Sequence[tuple[str, ...]], seconds: float) -> None:
    """A benchmark of each line (device, case, mode, provider), with pytest-benchmark's settings for one turn of it.

    Turns have session scope, by which pytest goes through every line's first turn, then every line's second.
    """
    # On a GPU a round is a burst of calls: what the device does, or where that is little, the launches.
    burst = {"cpu": 0.0, "cuda": 2e-3}
    marks = {
        device: pytest.mark.benchmark(timer=clock, min_time=burst[device], max_time=seconds, min_rounds=1, disable_gc=True)
        for device, clock in CLOCKS.items()
    }
    metafunc.parametrize("turn", range(turns), scope="session")
    metafunc.parametrize("device,case,mode,provider", [pytest.param(*line, marks=marks[line[0]]) for line in lines])
