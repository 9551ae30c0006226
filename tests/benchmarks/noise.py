"""How far apart two runs of the same code are: `make bench-noise` measures the operator ten times over and writes the bands."""

from __future__ import annotations

import argparse
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from pipeline.runtime.main import run
from tests.benchmarks.measure import OPERATOR, REPORT, measure
from tests.benchmarks.summarise import RESULTS, digits, metrics_of

NOISE = RESULTS / "noise.json"
RUNS = 10
MARGIN = 2  # over the largest loss that was seen, for those that were not


def changes(old: dict[str, Any], new: dict[str, Any]) -> pd.DataFrame:
    """What became of each speed-up, new over old: a line for each device, mode and case in both, a column for each provider.

    Raises:
        UserError: if they have no case in common.
    """
    lines = {}
    for device in ("cpu", "cuda"):
        for mode in ("forward", "backward", "both"):
            before, after = (metrics.get(device, {}).get(mode, {}) for metrics in (old, new))
            for case in (case for case in before if case in after):
                then, now = before[case]["speedup"], after[case]["speedup"]
                lines[f"{device} {mode} {case}"] = {name: now[name] / then[name] for name in then if name in now}
    if not lines:
        raise UserError("nothing to compare: no case was measured in both")
    return pd.DataFrame.from_dict(lines, orient="index")


def bands_of(runs: list[dict[str, Any]]) -> pd.Series:
    """For each line, how much the kindest of its ratios lost at worst between any two runs, with a margin.

    Ten runs are few for one line: what was quiet in them is taken to lose as much as the upper quartile of all lines.
    """
    worst = 1 - pd.DataFrame([changes(a, b).max(axis=1) for a, b in permutations(runs, 2)]).min()
    return MARGIN * worst.clip(lower=float(worst.quantile(0.75)))


def read_bands(path: Path) -> pd.Series:
    """The bands as :func:`main` wrote them.

    Raises:
        UserError: if they were never measured.
    """
    try:
        return pd.Series(json.loads(path.read_text(encoding="utf-8"))["band"], dtype=float)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run `make bench-noise`") from None


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    runs, machine = [], {}
    for i in range(RUNS):
        path = REPORT.with_name(f"noise-{i}.json")
        report = measure(path, benchmarks=[OPERATOR])
        if report.failures:
            raise UserError("the bands are of what ran each time, and something failed, as said above")
        runs.append(metrics_of(report))
        machine = report.machine
    singles = pd.concat([changes(a, b) for a, b in permutations(runs, 2)]).stack()
    write_json(
        NOISE,
        {
            "machine": machine,
            "runs": len(runs),
            "single_ratio": {"median": digits((singles - 1).abs().median()), "largest": digits((singles - 1).abs().max())},
            "band": {line: digits(band) for line, band in bands_of(runs).items()},
        },
    )
    print(f"{NOISE}: written")


if __name__ == "__main__":
    run(main)
