"""What a run found: pytest-benchmark's report as tables.

A provider's time is the median of its best turn: what it takes while nothing else disturbs the machine. That is what repeats
from run to run; medians over all turns move with the machine's moods.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.runtime.errors import UserError

LINE = ["device", "case", "mode"]  # what is compared among providers


@dataclass(frozen=True)
class Report:
    """The machine, with versions and commit; times and peak memory, each a pandas table.

    times: device, case, mode, provider; seconds; turns; spread: three of four turns were within this fraction of the best;
    speedup: seconds over the fused operator's; bytes and gb_s: that the mode must move, and moves a second; of_copy: over the
    same of a plain copy; images_s.
    memory: device, case, provider, peak_bytes beyond inputs, outputs and gradients.
    failures: why something is not in them, by device, case, mode and provider, or by the file that was not imported.
    """

    machine: dict[str, Any]
    times: pd.DataFrame
    memory: pd.DataFrame
    failures: dict[str, str]


def read_report(*paths: Path) -> Report:
    """Reads what ``--benchmark-json`` wrote; several runs of one machine count as one with more turns.

    Raises:
        UserError: if a file is missing, or is not the report of a run that timed something.
    """
    machine, frames = {}, []
    failures: dict[str, str] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            machine = content["machine_info"]
            failures |= content.get("failures", {})
            lines = [{**b["params"], **b["extra_info"], **b["stats"]} for b in content["benchmarks"]]
        except FileNotFoundError:
            raise UserError(f"{path}: missing; run `make bench`") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: expected the report of `make bench`, got {type(error).__name__}: {error}") from None
        if not any("turn" in line for line in lines):
            raise UserError(f"{path}: expected the report of `make bench`, got one in which nothing was timed")
        frames.append(pd.DataFrame(lines, columns=[*LINE, "provider", "turn", "median", "bytes", "images", "peak_bytes"]))
    frame = pd.concat(frames, ignore_index=True)
    # What failed in a later turn, or in another run, has times of the earlier ones.
    names = frame["device"] + " " + frame["case"] + " " + frame["mode"].fillna("memory") + " " + frame["provider"]
    frame = frame[~names.isin(failures)]
    memory = frame.groupby(["device", "case", "provider"], sort=False)["peak_bytes"].max().dropna().astype(int)
    return Report(machine, times_of(frame[frame["turn"].notna()]), memory.reset_index(), failures)


def times_of(turns: pd.DataFrame) -> pd.DataFrame:
    """One line for each provider of a case and mode, from one for each of its turns."""
    grouped = turns.groupby([*LINE, "provider"], sort=False)
    best = grouped["median"].min()
    times = pd.DataFrame(
        {
            "seconds": best,
            "turns": grouped["median"].size(),
            "spread": grouped["median"].quantile(0.75) / best - 1,
            "bytes": grouped["bytes"].first(),
            "images": grouped["images"].first(),
        }
    ).reset_index()
    times["gb_s"] = times["bytes"] / times["seconds"] / 1e9
    times["images_s"] = times["images"] / times["seconds"]
    times["speedup"] = times["seconds"] / beside(times, "fused", "seconds", LINE)
    # The copy stands beside the forward pass alone, and serves all modes.
    times["of_copy"] = times["gb_s"] / beside(times, "copy", "gb_s", ["device", "case"])
    return times


def beside(times: pd.DataFrame, provider: str, column: str, key: list[str]) -> npt.NDArray[np.float64]:
    """For each line the value that a provider has at the same key; NaN where it has none."""
    values = times[times["provider"] == provider].set_index(key)[column]
    found: npt.NDArray[np.float64] = values.reindex(pd.MultiIndex.from_frame(times[key])).to_numpy()
    return found
