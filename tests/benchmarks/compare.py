"""Has the operator become slower? `make bench-compare` measures it, and holds the ratios against those in git.

Ratios, because times belong to a machine. A provider's own luck moves its ratio, but a slower kernel lowers all ratios of its
case: a case looks slower if it lost against every provider, by more than its band. The band is how far apart two runs of the
same code were in that sense (`make bench-noise`).

What looks slower is measured again, up to four times, and became slower only if it looks so each time. Where the operator's
turns were further apart than the band in every one of these measurements, a loss of that size can't be told from the machine's
load: the case is inconclusive.

exit status: 0 if no case became slower; 1 if one did, or a provider failed; 3 if none did, but one is inconclusive
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import pandas as pd

from pipeline.runtime.errors import UserError
from pipeline.runtime.main import run
from tests.benchmarks.measure import OPERATOR, REPORT, measure
from tests.benchmarks.noise import NOISE, changes, read_bands
from tests.benchmarks.report import Report
from tests.benchmarks.summarise import METRICS, metrics_of

AGAIN = 4
INCONCLUSIVE = 3  # exit status


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
        print(f"{line!s:<27} {row['kindest']:>8.2f} {row['band']:>5.0%}   {each}{'   looks slower' if row['slower'] else ''}")


def spreads(report: Report) -> pd.Series:
    """For each line, how far apart the operator's turns were: three of four within this fraction of the best."""
    ours = report.times[report.times["provider"] == "fused"]
    return ours.set_index(ours["device"] + " " + ours["mode"] + " " + ours["case"])["spread"]


def tests_of(suspects: list[str]) -> str:
    """pytest's -k for what is called "cpu both 128x2" here."""
    return " or ".join("{0}-{2}-{1}-".format(*line.split()) for line in suspects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD", help="the commit whose metrics to compare with (default: HEAD)")
    base = parser.parse_args().base
    old, bands = metrics_at(base), read_bands(NOISE)
    report = measure(REPORT, benchmarks=[OPERATOR])
    here, there = (machine | {"digest": "", "commit": ""} for machine in (report.machine, old["machine"]))
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            print(
                f"note: {name}: {base} was measured with {there.get(name)}, this is {here.get(name)}; ratios may differ by more"
            )
    table = verdict(old, metrics_of(report), bands)
    show(table)
    suspects, failures = table[table["slower"]], dict(report.failures)
    spread = spreads(report).reindex(suspects.index)
    for count in range(1, AGAIN + 1):
        if suspects.empty:
            break
        print(f"\nlooks slower: {'; '.join(suspects.index)}; measured again, {count} of at most {AGAIN}")
        report = measure(REPORT.with_name("again.json"), "-k", tests_of(list(suspects.index)), benchmarks=[OPERATOR])
        again = verdict(old, metrics_of(report), bands)
        show(again)
        suspects, failures = again[again["slower"]], failures | report.failures
        spread = pd.concat([spread, spreads(report)], axis=1).min(axis=1).reindex(suspects.index)

    busy = suspects.index[spread > suspects["band"]]
    slower = suspects.drop(busy)
    print()
    for line, row in slower.iterrows():
        print(f"slower: {line}: lost at least {1 - row['kindest']:.0%} against every provider; the band is {row['band']:.0%}")
    for line in busy:
        print(f"inconclusive: {line}: looks slower, but its turns were never within the band: the machine is too busy")
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}")
    undecided = f", {len(busy)} inconclusive" if len(busy) else ""
    print(f"{len(slower) or 'none'} of {len(table)} cases became slower than {base} says{undecided}")
    sys.exit(1 if len(slower) or failures else INCONCLUSIVE if len(busy) else 0)


if __name__ == "__main__":
    run(main)
