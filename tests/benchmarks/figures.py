"""Figures of a report: speed-up over shape, and bandwidth against what a copy reaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.figures.style import figure
from tests.benchmarks.cases import CASES

COLORS = {"fused": "C0", "eager": "C1", "compile": "C2", "graph": "C4", "randn": "C5", "reference": "0.6", "copy": "0.2"}


def devices(machine: dict[str, Any], times: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each device's name in file names, what it is, and the times of sample and KL there."""
    sampling = {name for name, case in CASES.items() if not case.pixels}
    for device, of_device in times[times["case"].isin(sampling)].groupby("device", sort=False):
        on_cpu = f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}"
        yield str(device), f"{on_cpu if device == 'cpu' else machine['gpu']}, torch {machine['torch']}", of_device


def log_scales(axes: Axes, **texts: str) -> None:
    """1, 2, 5, 10 instead of powers of ten."""
    axes.set(xscale="log", yscale="log", **texts)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_speedups(machine: dict[str, Any], times: pd.DataFrame, folder: Path) -> None:
    """Lines for one float32 sample; what else was measured as open circles."""
    for device, title, of_device in devices(machine, times):
        cases = of_device["case"].map(CASES.__getitem__)
        elements = [case.rows * case.dim * (case.samples or 1) for case in cases]
        simple = [case.samples is None and case.dtype == torch.float32 for case in cases]
        points = (
            of_device.assign(elements=elements, simple=simple).dropna(subset="speedup").sort_values(["elements", "speedup"])
        )
        with figure(folder / f"speedup-{device}.png", width=11, height=3.9) as fig:
            fig.suptitle(f"Speed of the fused operator over others' ({title})", x=0.01, ha="left", fontsize=11)
            for axes, mode in zip(fig.subplots(1, 3, sharey=True), ("forward", "backward", "both"), strict=True):
                of_mode = points[(points["mode"] == mode) & ~points["provider"].isin(["fused", "copy"])]
                for provider, lines in of_mode.groupby("provider", sort=False):
                    color, one, others = COLORS[str(provider)], lines[lines["simple"]], lines[~lines["simple"]]
                    axes.plot(one["elements"], one["speedup"], ".-", color=color, label=provider)
                    axes.plot(others["elements"], others["speedup"], "o", color=color, markerfacecolor="none", markersize=4)
                axes.axhline(1, color="0.2", linewidth=0.8)
                log_scales(axes, title=mode, xlabel="elements of z (open: K > 1 or bfloat16)")
                if not of_mode.empty:
                    axes.legend(fontsize=8)
            fig.axes[0].set_ylabel("times as fast")


def draw_bandwidth(machine: dict[str, Any], times: pd.DataFrame, folder: Path) -> None:
    """Bytes a second over the bytes that must move, under the line of a plain copy: a roofline of the memory."""
    for device, title, of_device in devices(machine, times):
        points = of_device.sort_values("bytes")
        with figure(folder / f"bandwidth-{device}.png", width=7.2, height=4.4) as fig:
            axes = fig.subplots()
            drawn = [("copy", "forward", "-")]
            drawn += [(name, *way) for name in ("fused", "eager", "compile") for way in (("forward", "^"), ("backward", "v"))]
            for provider, mode, style in drawn:
                found = points[(points["provider"] == provider) & (points["mode"] == mode)]
                label = "plain copy" if provider == "copy" else f"{provider}, {mode}"
                axes.plot(found["bytes"], found["gb_s"], style, color=COLORS[provider], label=label, markersize=5)
            log_scales(axes, xlabel="bytes that must move", ylabel="GB/s", title=f"Bandwidth ({title})")
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
