"""What DVC's experiments of the last commit found: the commit's own run, and those that vary it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from pipeline.config.keys import diff_keys, flatten
from pipeline.config.paths import DEFAULT, PARAMS
from pipeline.config.plain_yaml import read_yaml
from pipeline.runtime.errors import UserError

# Parameters that move no metric, or none by more than another seed does.
METRIC_NEUTRAL = {"seed", "evaluate.batch_size", "train.checkpoint_every", "train.processes", "train.threads", "train.memmap"}


def affects_metrics(key: str) -> bool:
    """Whether runs that differ in this parameter, by its dotted name, should differ in what they find."""
    return key not in METRIC_NEUTRAL and not key.startswith("plot.")


def current_params() -> dict[str, Any]:
    """Those of params.yaml that affect metrics, by dotted names."""
    return {key: value for key, value in flatten(read_yaml(PARAMS)).items() if affects_metrics(key)}


@dataclass(frozen=True)
class Experiment:
    """A run that has ended."""

    params: dict[str, Any]  # by dotted names
    metrics: dict[str, float]
    differs: dict[str, Any]  # what of the parameters is not as in params.yaml now


def experiments() -> list[Experiment]:
    """Those that DVC shows; of runs with the same parameters, the last.

    Raises:
        UserError: if DVC can't tell.
    """
    shown = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, text=True, errors="replace", check=False)
    if shown.returncode != 0:
        raise UserError(f"dvc exp show: {shown.stderr.strip().splitlines()[-1]}")
    return finished_runs(json.loads(shown.stdout))


def finished_runs(shown: list[dict[str, Any]]) -> list[Experiment]:
    """The runs that have ended well, of what ``dvc exp show --json`` prints."""
    runs: dict[str, tuple[dict[str, Any], dict[str, float]]] = {}
    now: dict[str, Any] = {}
    for baseline in shown:
        # The newest come first. One that failed, or is not done, comes with the metrics of the commit that it started from.
        done = [one for one in baseline["experiments"] or [] if (one["executor"] or {}).get("state") in (None, "success")]
        for one in [baseline, *(experiment["revs"][0] for experiment in reversed(done))]:
            data = one["data"] or {}
            params = flatten(data.get("params", {}).get(str(PARAMS), {}).get("data", {}))
            metrics = data.get("metrics", {}).get(str(DEFAULT.metrics), {}).get("data")
            if one["rev"] == "workspace":
                now = params
            elif params and metrics:
                runs[json.dumps(params, sort_keys=True)] = params, metrics
    return [
        Experiment(params, metrics, {key: params.get(key) for key in diff_keys(params, now)})
        for params, metrics in runs.values()
    ]
