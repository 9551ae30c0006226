"""How much memory a call takes."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most memory that a call holds beyond inputs and outputs; of both passes, outputs and gradients."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        kept = run()
        peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    else:
        with torch.profiler.profile(profile_memory=True) as profile:
            kept = run()
        assert profile.profiler is not None
        held = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
    del kept  # not before: what it holds is not counted
    return peak - held
