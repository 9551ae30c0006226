"""Figures of a report: speed-up over shape, and bandwidth against what a copy reaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.figures.style import figure
from tests.benchmarks.cases import CASES, of_pixels
from tests.benchmarks.report import Report

COLORS = {
    "fused": "C0",
    "eager": "C1",
    "compile": "C2",
    "max-autotune": "C3",
    "graph": "C4",
    "randn": "C5",
    "reference": "0.6",
    "copy": "0.2",
}


def devices(report: Report) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each device's name in file names, what it is, and the times of sample and KL there."""
    machine, operators = report.machine, report.times[report.times["mode"] != "step"]
    for device, times in operators[~operators["case"].map(of_pixels).astype(bool)].groupby("device", sort=False):
        on_cpu = f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}"
        yield str(device), f"{on_cpu if device == 'cpu' else machine['gpu']}, torch {machine['torch']}", times


def plain_numbers(axes: Axes) -> None:
    """1, 2, 5, 10 instead of powers of ten."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_speedups(report: Report, folder: Path) -> None:
    """Lines for one float32 sample; what else was measured as open circles."""
    for device, machine, times in devices(report):
        with figure(folder / f"speedup-{device}.png", width=11, height=3.9) as fig:
            fig.suptitle(f"Speed of the fused operator over others' ({machine})", x=0.01, ha="left", fontsize=11)
            for axes, mode in zip(fig.subplots(1, 3, sharey=True), ("forward", "backward", "both"), strict=True):
                of_mode = times[(times["mode"] == mode) & ~times["provider"].isin(["fused", "copy"])]
                for provider, lines in of_mode.groupby("provider", sort=False):
                    points = sorted(
                        (elements(case), speedup, is_plain(case))
                        for case, speedup in zip(lines["case"], lines["speedup"], strict=True)
                    )
                    color = COLORS[str(provider)]
                    axes.plot(*zip(*[p[:2] for p in points if p[2]], strict=True), ".-", color=color, label=provider)
                    others = [p[:2] for p in points if not p[2]]
                    if others:
                        axes.plot(*zip(*others, strict=True), "o", color=color, markerfacecolor="none", markersize=4)
                axes.axhline(1, color="0.2", linewidth=0.8)
                axes.set(xscale="log", yscale="log", title=mode, xlabel="elements of z (open: K > 1 or bfloat16)")
                plain_numbers(axes)
                if not of_mode.empty:
                    axes.legend(fontsize=8)
            fig.axes[0].set_ylabel("times as fast")


def draw_bandwidth(report: Report, folder: Path) -> None:
    """Bytes a second over the bytes that must move, under the line of a plain copy: a roofline of the memory."""
    for device, machine, times in devices(report):
        with figure(folder / f"bandwidth-{device}.png", width=7.2, height=4.4) as fig:
            axes = fig.subplots()
            copies = times[times["provider"] == "copy"].sort_values("bytes")
            axes.plot(copies["bytes"], copies["gb_s"], "-", color=COLORS["copy"], label="plain copy")
            for provider in ("fused", "eager", "compile"):
                for mode, marker in (("forward", "^"), ("backward", "v")):
                    lines = times[(times["provider"] == provider) & (times["mode"] == mode)].sort_values("bytes")
                    axes.plot(
                        lines["bytes"], lines["gb_s"], marker, color=COLORS[provider], label=f"{provider}, {mode}", markersize=5
                    )
            axes.set(xscale="log", yscale="log", xlabel="bytes that must move", ylabel="GB/s", title=f"Bandwidth ({machine})")
            plain_numbers(axes)
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def elements(case: str) -> int:
    return CASES[case].rows * CASES[case].dim * (CASES[case].samples or 1)


def is_plain(case: str) -> bool:
    return CASES[case].samples is None and CASES[case].dtype == torch.float32
