"""Figures of a report: speed-up against shape, and bandwidth relative to a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.figures.style import figure
from tests.benchmarks.cases import CASES

COLORS = {"fused": "C0", "eager": "C1", "compile": "C2", "graph": "C4", "randn": "C5", "reference": "0.6", "copy": "0.2"}


def draw(machine: dict[str, Any], times: pd.DataFrame, folder: Path) -> None:
    """Draws speedup-{device}.png and bandwidth-{device}.png, for sample and KL."""
    sampling = {name for name, case in CASES.items() if not case.pixels and not case.prior}
    for device, of_device in times[times["case"].isin(sampling)].groupby("device", sort=False):
        on_cpu = f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}"
        title = f"{on_cpu if device == 'cpu' else machine['gpu']}, torch {machine['torch']}"
        draw_speedups(of_device, title, folder / f"speedup-{device}.png")
        draw_bandwidth(of_device, title, folder / f"bandwidth-{device}.png")


def log_scales(axes: Axes, **texts: str) -> None:
    """Labels logarithmic axes with 1, 2, 5, 10 instead of powers of ten."""
    axes.set(xscale="log", yscale="log", **texts)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_speedups(times: pd.DataFrame, title: str, path: Path) -> None:
    """Draws lines for one float32 sample, and the other measurements as open circles."""
    cases = times["case"].map(CASES.__getitem__)
    elements = [case.rows * case.dim * (case.samples or 1) for case in cases]
    simple = [case.samples is None and case.dtype == torch.float32 for case in cases]
    points = times.assign(elements=elements, simple=simple).dropna(subset="speedup").sort_values(["elements", "speedup"])
    with figure(path, width=11, height=3.9) as fig:
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


def draw_bandwidth(times: pd.DataFrame, title: str, path: Path) -> None:
    """Draws bytes per second against the bytes that must move, below the line of a plain copy: a memory roofline."""
    drawn = [("copy", "forward", "-")]
    drawn += [(name, *way) for name in ("fused", "eager", "compile") for way in (("forward", "^"), ("backward", "v"))]
    with figure(path, width=7.2, height=4.4) as fig:
        axes = fig.subplots()
        for provider, mode, style in drawn:
            found = times[(times["provider"] == provider) & (times["mode"] == mode)].sort_values("bytes")
            label = "plain copy" if provider == "copy" else f"{provider}, {mode}"
            axes.plot(found["bytes"], found["gb_s"], style, color=COLORS[provider], label=label, markersize=5)
        log_scales(axes, xlabel="bytes that must move", ylabel="GB/s", title=f"Bandwidth ({title})")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
