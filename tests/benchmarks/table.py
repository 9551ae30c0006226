"""A report for people: `make bench` ends with it, `make bench-record` with that of its two runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline.runtime.main import run
from tests.benchmarks.cases import of_pixels
from tests.benchmarks.report import LINE, Report, read_report

LEGEND = """A time is the median of the best turn; +n%: three of four turns were within that of it. 2.0x: the fused operator is
twice as fast. GB/s: the least that it must move, over its time; of copy: against a plain copy of as many bytes as
the forward pass moves."""


def duration(seconds: float) -> str:
    """Three digits and a unit: 18.2 us, 3.34 ms."""
    unit, name = (1e-6, "us") if seconds < 1e-3 else (1e-3, "ms")
    value = seconds / unit
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"


def cell(line: pd.Series) -> str:
    ratio = "" if line["provider"] == "fused" or pd.isna(line["speedup"]) else f" {line['speedup']:6.2f}x"
    return f"{duration(line['seconds']):>8} +{min(line['spread'], 9.99):<4.0%}{ratio}"


def operator_lines(times: pd.DataFrame) -> Iterator[str]:
    """A line for each case and mode, a column for each provider."""
    timed = times[times["provider"] != "copy"]
    providers = list(dict.fromkeys(timed["provider"]))
    width = {name: 14 if name == "fused" else 22 for name in providers}
    yield " ".join([f"{'case':<16} {'mode':<8}", *(f"{name:<{width[name]}}" for name in providers), "  GB/s  of copy"])
    for (_, case, mode), group in timed.groupby(LINE, sort=False):
        cells = {line["provider"]: cell(line) for _, line in group.iterrows()}
        ours = group[group["provider"] == "fused"][["gb_s", "of_copy"]].dropna()
        bandwidth = "".join(f"{gb_s:6.1f} {of_copy:8.0%}" for gb_s, of_copy in ours.itertuples(index=False))
        columns = (f"{cells.get(name, ''):<{width[name]}}" for name in providers)
        yield " ".join([f"{str(case).removesuffix('-pixels'):<16} {mode:<8}", *columns, bandwidth]).rstrip()


def lines(report: Report) -> Iterator[str]:
    for name, value in report.machine.items():
        yield f"{name.replace('_', ' ')}: {value}"
    for device, times in report.times.groupby("device", sort=False):
        operators = times[times["mode"] != "step"]
        for title, pixels in ((f"{device}, sample and KL", False), (f"{device}, log p(x|logits) of bytes", True)):
            chosen = operators[operators["case"].map(of_pixels) == pixels]
            if not chosen.empty:
                yield f"\n{title}\n"
                yield from operator_lines(chosen)
        yield ""
        memory = report.memory[report.memory["device"] == device].pivot_table("peak_bytes", "case", "provider", sort=False)
        yield "memory, bytes beyond inputs, outputs and gradients, at most:"
        for case, row in memory.iterrows():
            yield f"{case!s:<17}         " + ", ".join(f"{name} {value:,.0f}" for name, value in row.dropna().items())
        for (_, case, _), group in times[times["mode"] == "step"].groupby(LINE, sort=False):
            yield f"\ntraining, images/s, {case}, batch 128:"
            for _, line in group.iterrows():
                ratio = "" if line["provider"] == "fused" or pd.isna(line["speedup"]) else f" {line['speedup']:.2f}x"
                yield f"{line['provider']:<16} {line['images_s']:>9,.0f}{ratio}"
    yield f"\n{LEGEND}"
    turns = report.times.groupby(report.times["mode"] == "step")["turns"].max()
    yield "Turns: " + ", ".join(f"{count} of {'training' if step else 'an operator'}" for step, count in turns.items())
    for name, reason in report.failures.items():
        yield f"failed, and so not above: {name}: {reason}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", help="what pytest-benchmark wrote: several runs count as one")
    print("\n".join(lines(read_report(*parser.parse_args().reports))))


if __name__ == "__main__":
    run(main)
