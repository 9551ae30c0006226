"""How time is taken: by which clock, for how long.

Timings vary with load, for seconds to minutes. So what is compared is timed one after the other, a turn each, and the whole
round is gone through up to fifteen times: a provider counts with its best turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
import torch


class DeviceClock:
    """Seconds when the GPU has done all that it was given: two calls around a piece of work time it by the device's events.

    Between two events time is a float32 of milliseconds; it is added up here in float64.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.last: torch.cuda.Event | None = None

    def __call__(self) -> float:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if self.last is not None:
            self.now += self.last.elapsed_time(event) / 1000
        self.last = event
        return self.now


CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.perf_counter, "cuda": DeviceClock()}


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
    # On a GPU a round is a burst of calls between two events: what the device does, or where that is little, the launches.
    bursts = {"cpu": 0.0, "cuda": 1e-3}
    marks = {
        device: pytest.mark.benchmark(timer=CLOCKS[device], min_time=burst, max_time=seconds, min_rounds=1, disable_gc=True)
        for device, burst in bursts.items()
    }
    metafunc.parametrize("turn", range(turns), scope="session")
    metafunc.parametrize("device,case,mode,provider", [pytest.param(*line, marks=marks[line[0]]) for line in lines])
