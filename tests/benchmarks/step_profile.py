"""Breaks down the time of a training step on a CPU: `make bench-profile`.

The step is that of the benchmark, 784-400-20 with batches of 128. It is timed without the profiler, which slows small operators
down most, and then with it. The profiled step is divided: the operators' times are medians, and the remainder is Python,
PyTorch's dispatch of calls and the profiler itself.
"""

from __future__ import annotations

import statistics
from collections import defaultdict

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.data.readers.idx import read_idx
from pipeline.runtime.main import run
from tests.benchmarks.bench_step import our_epoch, train_step_on
from tests.benchmarks.timing import CLOCKS, seconds_of
from vae_ext.source import ROOT

IMAGES, EPOCHS = 9_984, 9  # 78 batches of 128; the first epoch warms up
REST = "Python and the calls of operators"
KINDS = {
    "matrix products": ("addmm", "mm", "addmm_"),
    "biases, copied into the products' outputs, and their gradients": ("copy_", "sum"),
    "Adam, and the norm of the gradient": ("_fused_adam_", "dot"),
    "log-likelihood with its gradient": ("bernoulli_log_prob_and_gradient",),
    "noise, KL and their gradients": ("reparam_kl_packed", "reparam_kl_packed_backward"),
    "the batch, gathered": ("take_pixels",),
    "ReLU and its gradient": ("clamp_min_", "threshold_backward"),
    "other operators: the bound of logvar, the record, the checks": (),
}


def step_profile() -> tuple[float, pd.Series[float]]:
    """Returns the microseconds of a step, and those of a profiled one by kind, whose sum is the whole profiled step."""
    train_step = train_step_on(read_idx(ROOT / "data/raw/mnist").splits["test"].images.read(np.arange(IMAGES)), "cpu")
    whole = [seconds_of(lambda: our_epoch(train_step), 1, CLOCKS["cpu"]) for _ in range(EPOCHS)][1:]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        profiled = seconds_of(lambda: our_epoch(train_step), 1, CLOCKS["cpu"])
    calls: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in profiler.events():
        calls[event.name.split("::")[-1], str(event.input_shapes)].append(event.self_cpu_time_total)
    *kinds, others = KINDS
    microseconds = dict.fromkeys(KINDS, 0.0)
    for (name, _), times in calls.items():
        kind = next((kind for kind in kinds if name in KINDS[kind]), others)
        microseconds[kind] += statistics.median(times) * len(times) / train_step.steps
    microseconds[REST] = profiled * 1e6 / train_step.steps - sum(microseconds.values())
    return statistics.median(whole) * 1e6 / train_step.steps, pd.Series(microseconds, name="us")


def main() -> None:
    step, parts = step_profile()
    table = parts.rename_axis("kind").to_frame()
    table["share"] = table["us"] / table["us"].sum()
    print(f"{step:,.0f} us a step on {torch.get_num_threads()} threads; with the profiler {table['us'].sum():,.0f}:")
    for kind, line in table.iterrows():
        print(f"{line['us']:8,.0f} us {line['share']:5.0%}  {kind}")


if __name__ == "__main__":
    run(main, about=__doc__)
