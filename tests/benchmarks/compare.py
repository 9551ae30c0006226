"""Has the operator become slower? `make bench-compare` measures it, and holds the ratios against those in git.

Ratios, because times belong to a machine. A provider's own luck moves its ratio, but a slower kernel lowers all ratios of its
case: a case counts as slower if it lost against every provider, by more than its band. The band is how far apart two runs of
the same code were in that sense (`make bench-noise`). What looks slower is measured once more, and must still look so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import pandas as pd

from pipeline.cli import UserError, run
from tests.benchmarks.measure import OPERATOR, REPORT, measure
from tests.benchmarks.noise import NOISE, changes, read_bands
from tests.benchmarks.report import read_report
from tests.benchmarks.summarise import METRICS, metrics_of


def metrics_at(revision: str) -> dict[str, Any]:
    """The metrics that a commit holds.

    Raises:
        UserError: if there are none.
    """
    show = subprocess.run(["git", "show", f"{revision}:{METRICS}"], capture_output=True, text=True, check=False)
    if show.returncode != 0:
        raise UserError(f"{revision}: expected a commit with {METRICS}: {show.stderr.strip()}")
    metrics: dict[str, Any] = json.loads(show.stdout)
    return metrics


def verdict(old: dict[str, Any], new: dict[str, Any], bands: pd.Series) -> pd.DataFrame:
    """For each line in both: each provider's change of ratio, the kindest of them, the band, and whether it is slower."""
    table = changes(old, new)
    table.insert(0, "kindest", table.max(axis=1))
    # A line whose noise was never measured gets the widest band.
    table.insert(1, "band", bands.reindex(table.index).fillna(bands.max()))
    table.insert(2, "slower", table["kindest"] < 1 - table["band"])
    return table


def show(table: pd.DataFrame) -> None:
    print(f"\n{'':<27} {'kindest':>8} {'band':>5}   new ratio over old, against each provider")
    for line, row in table.iterrows():
        each = ", ".join(f"{name} {value:.2f}" for name, value in row.iloc[3:].items() if value == value)
        print(f"{line!s:<27} {row['kindest']:>8.2f} {row['band']:>5.0%}   {each}{'   SLOWER' if row['slower'] else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD", help="the commit whose metrics to compare with (default: HEAD)")
    base = parser.parse_args().base
    old, bands = metrics_at(base), read_bands(NOISE)
    again = REPORT.with_name("again.json")
    measure(REPORT, benchmarks=[OPERATOR])
    report = read_report(REPORT)
    here, there = (machine | {"digest": "", "commit": ""} for machine in (report.machine, old["machine"]))
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            print(
                f"note: {name}: {base} was measured with {there.get(name)}, this is {here.get(name)}; ratios may differ by more"
            )
    table = verdict(old, metrics_of(report), bands)
    if table["slower"].any():
        print(f"\nmaybe slower: {'; '.join(table.index[table['slower']])}: once more")
        measure(again, benchmarks=[OPERATOR])
        table = verdict(old, metrics_of(read_report(REPORT, again)), bands)
    show(table)
    for line, row in table[table["slower"]].iterrows():
        print(f"slower: {line}: lost at least {1 - row['kindest']:.0%} against every provider; the band is {row['band']:.0%}")
    print(f"{'FAILED' if table['slower'].any() else 'passed'}: {len(table)} cases against {base}")
    sys.exit(int(table["slower"].any()))


if __name__ == "__main__":
    run(main)
