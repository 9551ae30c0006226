"""Formats benchmark results: pytest-benchmark's reports as tables, and as the files that are kept in git.

A provider's time is the median of its best turn: its time while the machine is otherwise idle. That is reproducible; medians
over all turns vary with the machine's load.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import whole_file, write_json
from pipeline.runtime.main import run
from tests.benchmarks.cases import CASES, GPU, QUICK
from tests.benchmarks.figures import draw

RESULTS = Path("results/benchmarks")
LINE = ["device", "case", "mode"]  # providers are compared within a line
KEPT = {
    name for name, case in CASES.items() if case in (*QUICK, *GPU) or case.pixels or case.prior
}  # fewer, to show what changed
LEGEND = """A time is the median of the best turn. speedup 2: the fused operator is twice as fast. gb_s: the least that it must
move, over its time; of_copy: against a plain copy of as many bytes as the forward pass moves."""


class Report(NamedTuple):
    """The machine, with versions and commit; a pandas table of times; and reasons for missing timings.

    times: device, case, mode, provider; seconds; turns; speedup: seconds divided by the fused operator's; bytes: that the mode
    must move, and gb_s: per second; of_copy: gb_s relative to a plain copy; images_s; peak_bytes besides inputs and outputs.
    """

    machine: dict[str, Any]
    times: pd.DataFrame
    failures: dict[str, str]


def read_report(*paths: Path) -> Report:
    """Reads the output of ``--benchmark-json``; several runs on one machine are merged as one with more turns.

    Raises:
        OSError: if a file cannot be read.
        UserError: if a file is not the report of a run with timings.
    """
    machine, timed = {}, []
    failures: dict[str, str] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            machine = content["machine_info"]
            failures |= content["failures"]
            timed += [{**b["params"], **b["extra_info"], "seconds": b["stats"]["median"]} for b in content["benchmarks"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: expected the report of `make bench`, got {type(error).__name__}: {error}") from None
    if not timed:
        raise UserError(f"{path}: expected the report of `make bench`, got one in which nothing was timed")
    turns = pd.DataFrame(timed, columns=[*LINE, "provider", "seconds", "bytes", "images", "peak_bytes"])
    # A line that failed in a later turn or run has timings of earlier ones.
    names = turns[[*LINE, "provider"]].agg(" ".join, axis=1)
    return Report(machine, times_of(turns[~names.isin(failures)]), failures)


def times_of(turns: pd.DataFrame) -> pd.DataFrame:
    """Reduces rows per turn to one row per provider, case and mode."""
    grouped = turns.groupby([*LINE, "provider"], sort=False)
    times = grouped.agg({"seconds": "min", "bytes": "first", "images": "first", "peak_bytes": "max"})
    times = times.assign(turns=grouped.size()).reset_index()
    times["gb_s"] = times["bytes"] / times["seconds"] / 1e9
    times["images_s"] = times["images"] / times["seconds"]
    fused, copy = (times[times["provider"] == name] for name in ("fused", "copy"))
    # The copy is measured for the forward pass only, and serves all modes.
    for column, key, of, value in (("speedup", LINE, fused, "seconds"), ("of_copy", LINE[:2], copy, "gb_s")):
        beside = of.set_index(key)[value].reindex(pd.MultiIndex.from_frame(times[key])).to_numpy()
        times[column] = times[value] / beside
    return times


def digits(value: float) -> float:
    """Rounds to four significant digits, more than the precision of the measurement."""
    return float(f"{value:.4g}")


def metrics_of(report: Report) -> dict[str, Any]:
    """Returns the report as nested names, which DVC joins: cpu.forward.128x20.fused_us, cpu.forward.128x20.speedup.eager,
    cpu.forward.128x784-pixels.fused_us, cpu.extra_bytes.128x20.eager, cpu.images_per_second.fused, machine.cpu.
    """
    metrics: dict[str, Any] = {"machine": report.machine}
    for (device, case, mode), lines in report.times.groupby(LINE, sort=False):
        of_device = metrics.setdefault(str(device), {})
        providers = lines.set_index("provider")
        if mode == "step":
            of_device["images_per_second"] = providers["images_s"].map(digits).to_dict()
        elif case in KEPT and "fused" in providers.index:
            speedups = providers["speedup"].drop(["fused", "graph", "copy"], errors="ignore")  # graph is the operator itself
            fused_us = digits(1e6 * providers["seconds"]["fused"])
            of_device.setdefault(mode, {})[case] = {"fused_us": fused_us, "speedup": speedups.map(digits).to_dict()}
        peaks = providers["peak_bytes"].dropna().astype(int).to_dict()
        if case in KEPT and peaks:
            of_device.setdefault("extra_bytes", {})[case] = peaks
    return metrics


def kernels_of(times: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Returns GPU times without Python, from CUDA graphs: microseconds of the forward pass and of what the backward pass
    adds, GB/s of a copy, and each one's fraction of it.
    """
    found = {}
    on_gpu = times[times["device"] == "cuda"]
    replayed = on_gpu[on_gpu["provider"] == "graph"].pivot(index="case", columns="mode", values="seconds")
    copies = on_gpu[on_gpu["provider"] == "copy"].set_index("case")["gb_s"]
    for name, passes in replayed.join(copies).dropna().iterrows():
        seconds = {"forward": passes["forward"], "backward": passes["both"] - passes["forward"]}
        moved = {mode: 1e-9 * CASES[str(name)].bytes_moved(mode) / took for mode, took in seconds.items()}
        values = {f"{mode}_us": 1e6 * took for mode, took in seconds.items()} | {"copy_gb_s": passes["gb_s"]}
        values |= {f"{mode}_of_copy": gb_s / passes["gb_s"] for mode, gb_s in moved.items()}
        found[str(name)] = {key: digits(value) for key, value in values.items()}
    return found


def table_of(times: pd.DataFrame) -> pd.DataFrame:
    """One row per device, case and mode; columns {provider}_us and speedup_{provider}, and the operator's gb_s and of_copy."""
    operator = times[times["mode"] != "step"]
    wide = operator.pivot_table(index=LINE, columns="provider", values=["seconds", "speedup"], sort=False)
    table = pd.DataFrame({f"{name}_us": 1e6 * wide["seconds", name] for name in wide.get("seconds", ())})
    for name in wide["speedup"].columns.difference(["fused", "copy"], sort=False) if "speedup" in wide else ():
        table[f"speedup_{name}"] = wide["speedup", name]
    table[["gb_s", "of_copy"]] = operator[operator["provider"] == "fused"].set_index(LINE)[["gb_s", "of_copy"]]
    table = table.map(digits)
    names = [f"{case} {mode}" + ("" if device == "cpu" else f" {device}") for device, case, mode in table.index]
    table.insert(0, "line", names)
    return table.reset_index()


def lines(report: Report) -> Iterator[str]:
    """Yields the lines of the printed report."""
    yield from (f"{name.replace('_', ' ')}: {value}" for name, value in report.machine.items())
    table = table_of(report.times).drop(columns=LINE, errors="ignore")  # absent if all failed
    kept = [name for name in table if name == "fused_us" or not str(name).endswith("_us")]  # other times follow from the ratios
    yield "\n" + table[kept].to_string(index=False, na_rep="")
    titles = {"peak_bytes": "memory, bytes beyond inputs, outputs and gradients", "images_s": "training, images/s"}
    for column, title in titles.items():
        found = report.times.dropna(subset=column)
        if not found.empty:
            wide = found.pivot_table(column, ["device", "case"], "provider", sort=False).reset_index()
            yield f"\n{title}:\n" + wide.to_string(index=False, na_rep="", float_format="{:,.0f}".format)
    yield f"\n{LEGEND}"
    turns = report.times.groupby(report.times["mode"] == "step")["turns"].max()
    yield "Turns: " + ", ".join(f"{count} of {'training' if step else 'an operator'}" for step, count in turns.items())
    yield from (f"failed, and so not above: {name}: {reason}" for name, reason in report.failures.items())


def write_results(report: Report, folder: Path) -> None:
    """Writes metrics.json for `dvc metrics diff`, times.csv, figures/ and, for a GPU, kernels.json."""
    write_json(folder / "metrics.json", metrics_of(report))
    if kernels := kernels_of(report.times):
        write_json(folder / "kernels.json", kernels)
    with whole_file(folder / "times.csv") as temporary:
        table_of(report.times).to_csv(temporary, index=False)
    draw(report.machine, report.times, folder / "figures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", help="what pytest-benchmark wrote: several runs count as one")
    parser.add_argument("--folder", type=Path, default=RESULTS, help=f"where to (default: {RESULTS})")
    arguments = parser.parse_args()
    report = read_report(*arguments.reports)
    print("\n".join(lines(report)))
    write_results(report, arguments.folder)
    print(f"{arguments.folder}: metrics.json, times.csv and figures/: written")


if __name__ == "__main__":
    run(main)
