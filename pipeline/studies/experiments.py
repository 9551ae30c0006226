"""Lists the finished runs that DVC has: the last commit's and its experiments'; and which parameters affect metrics."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dvc.scm import SCMError  # type: ignore[import-untyped]

from pipeline.config.keys import flatten
from pipeline.config.paths import DEFAULT, EXPECTED, PARAMS
from pipeline.config.plain_yaml import read_yaml
from pipeline.runtime.errors import UserError

# Parameters that change no metric, or by no more than another seed does.
METRIC_NEUTRAL = {"seed", "evaluate.batch_size", "train.checkpoint_every", "train.processes", "train.threads", "train.memmap"}
# While an experiment runs in this folder, DVC resolves HEAD through a reference of its own. It is deleted when the experiment
# ends, possibly between DVC's finding it and reading it.
RUNNING = "refs/exps/exec/"
TRIES, PAUSE = 5, 0.5  # seconds
T = TypeVar("T")


def affects_metrics(key: str) -> bool:
    """Whether a parameter, by its dotted name, affects the metrics beyond rounding and the seed."""
    return key not in METRIC_NEUTRAL and not key.startswith("plot.")


def current_params() -> dict[str, Any]:
    """Returns the parameters of params.yaml that affect metrics, by dotted name."""
    return {key: value for key, value in flatten(read_yaml(PARAMS)).items() if affects_metrics(key)}


def expected_band() -> dict[str, Any]:
    """Reads the result of ``make seeds``: the seeds, and mean, standard deviation and limits of each quantity.

    Raises:
        UserError: if it is missing or invalid.
    """
    try:
        band: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{EXPECTED}: missing; make seeds writes it") from None
    except ValueError as error:
        raise UserError(f"{EXPECTED}: expected JSON, as make seeds writes it: {error}") from None
    return band


def retry_while_experiments_run(ask: Callable[[], T]) -> T:
    """Calls DVC, and retries while an experiment that is starting or ending prevents it from resolving HEAD.

    Raises:
        UserError: if all tries fail.
    """
    for _ in range(TRIES):
        try:
            return ask()
        except (SCMError, UserError) as error:
            if RUNNING not in str(error):
                raise
            time.sleep(PAUSE)
    raise UserError("DVC can't tell what HEAD is while experiments start and end in this folder; try again when they are done")


def finished_experiments() -> dict[str, str]:
    """Returns the name and the revision of the last commit and of each of its successful experiments.

    Raises:
        UserError: if DVC fails.
    """
    return finished(json.loads(retry_while_experiments_run(_dvc_exp_show)))


def _dvc_exp_show() -> str:
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if shown.returncode != 0:
        reason = shown.stderr.strip().rpartition("\n")[2] or f"exit status {shown.returncode}"
        raise UserError(f"dvc exp show: {reason}")
    return shown.stdout


def finished(shown: list[dict[str, Any]]) -> dict[str, str]:
    """Parses the output of ``dvc exp show --json``; of runs with equal parameters, only the last is returned."""
    runs: dict[str, tuple[str, str]] = {}
    for baseline in shown:
        # Newest first. A failed or unfinished one shows the metrics of the commit that it started from.
        ended = [one for one in baseline["experiments"] or [] if (one["executor"] or {}).get("state") in (None, "success")]
        for one in [baseline, *(experiment["revs"][0] for experiment in reversed(ended))]:
            data = one["data"] or {}
            params = data.get("params", {}).get(str(PARAMS), {}).get("data", {})
            if params and str(DEFAULT.metrics) in data.get("metrics", {}) and one["rev"] != "workspace":
                runs[json.dumps(params, sort_keys=True)] = one.get("name") or one["rev"][:7], one["rev"]
    return dict(runs.values())
