"""How time is taken: by which clock, for how long, how often.

Timings vary with load, for seconds to minutes. So what is compared is timed one after the other, a turn each, and the whole
round is gone through up to fifteen times: a provider counts with its best turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

TURNS = range(15)


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


def timed(device: str, seconds: float = 0.03, rounds: int = 2) -> pytest.MarkDecorator:
    """pytest-benchmark's settings for one turn of one provider."""
    # On a GPU a round is a burst of calls between two events: what the device does, or where that is little, the launches.
    burst = {"cpu": 0.0, "cuda": 1e-3}[device]
    return pytest.mark.benchmark(
        timer=CLOCKS[device], min_time=burst, max_time=seconds, min_rounds=rounds, disable_gc=True, warmup=False
    )
