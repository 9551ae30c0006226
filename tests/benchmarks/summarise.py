"""A report as what is kept in git: metrics.json for `dvc metrics diff`, times.csv, and the figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.runtime.files import whole_file, write_json
from pipeline.runtime.main import run
from tests.benchmarks.cases import GPU, PIXELS, QUICK
from tests.benchmarks.figures import draw_bandwidth, draw_speedups
from tests.benchmarks.report import LINE, Report, read_report

RESULTS = Path("results/benchmarks")
METRICS = RESULTS / "metrics.json"
KEPT = {case.name for case in (*QUICK, *GPU, *PIXELS)}  # in the metrics: all would hide what changed


def digits(value: Any) -> float:
    """Rounded to four significant digits, more than the measurement has."""
    return float(f"{value:.4g}")


def metrics_of(report: Report) -> dict[str, Any]:
    """The report as nested names, which DVC shows joined: cpu.forward.128x20.fused_us, cpu.forward.128x20.speedup.eager,
    cpu.forward.128x784-pixels.fused_us, cpu.extra_bytes.128x20.eager, cpu.images_per_second.fused, machine.cpu.
    """
    metrics: dict[str, Any] = {"machine": report.machine}
    for (device, case, mode), lines in report.times.groupby(LINE, sort=False):
        of_device = metrics.setdefault(str(device), {})
        by_provider = lines.set_index("provider")
        if mode == "step":
            of_device["images_per_second"] = {name: digits(value) for name, value in by_provider["images_s"].items()}
        elif case in KEPT and "fused" in by_provider.index:
            # The graph is of the operator itself.
            speedups = by_provider["speedup"].drop(["fused", "graph", "copy"], errors="ignore")
            of_device.setdefault(mode, {})[case] = {
                "fused_us": digits(1e6 * by_provider["seconds"]["fused"]),
                "speedup": {name: digits(value) for name, value in speedups.items()},
            }
    kept = report.memory[report.memory["case"].isin(KEPT)]
    for (device, case), lines in kept.groupby(["device", "case"], sort=False):
        peaks = dict(zip(lines["provider"], map(int, lines["peak_bytes"]), strict=True))
        metrics[str(device)].setdefault("extra_bytes", {})[case] = peaks
    return metrics


def table_of(times: pd.DataFrame) -> pd.DataFrame:
    """A line for each device, case and mode; columns {provider}_us and speedup_{provider}, gb_s and of_copy of the operator."""
    operator = times[times["mode"] != "step"]
    wide = operator.pivot_table(index=LINE, columns="provider", values=["seconds", "speedup"], sort=False)
    table = pd.DataFrame({f"{name}_us": 1e6 * wide["seconds", name] for name in wide["seconds"]})
    for name in wide["speedup"].columns.difference(["fused", "copy"], sort=False):
        table[f"speedup_{name}"] = wide["speedup", name]
    table[["gb_s", "of_copy"]] = operator[operator["provider"] == "fused"].set_index(LINE)[["gb_s", "of_copy"]]
    table.insert(
        0, "line", [f"{case} {mode}" + ("" if device == "cpu" else f" {device}") for device, case, mode in table.index]
    )
    return table.map(lambda value: digits(value) if isinstance(value, float) else value).reset_index()


def summarise(report: Report, folder: Path) -> None:
    """Writes metrics.json, times.csv and figures/ into a folder."""
    write_json(folder / METRICS.name, metrics_of(report))
    with whole_file(folder / "times.csv") as temporary:
        table_of(report.times).to_csv(temporary, index=False)
    draw_speedups(report, folder / "figures")
    draw_bandwidth(report, folder / "figures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", help="what pytest-benchmark wrote: several runs count as one")
    summarise(read_report(*parser.parse_args().reports), RESULTS)
    print(f"{RESULTS}: metrics.json, times.csv and figures/: written")


if __name__ == "__main__":
    run(main)
