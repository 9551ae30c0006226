"""Which runs DVC has of the last commit: its own, and the experiments that vary it; and which parameters can move metrics."""

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

# Parameters that move no metric, or none by more than another seed does.
METRIC_NEUTRAL = {"seed", "evaluate.batch_size", "train.checkpoint_every", "train.processes", "train.threads", "train.memmap"}
# While an experiment runs in this folder, DVC reads HEAD by a reference of its own. It goes when the experiment ends, which may
# be after DVC has looked for it, and before it reads it.
RUNNING = "refs/exps/exec/"
TRIES, PAUSE = 5, 0.5  # seconds
T = TypeVar("T")


def affects_metrics(key: str) -> bool:
    """Whether runs that differ in this parameter, by its dotted name, should differ in what they find."""
    return key not in METRIC_NEUTRAL and not key.startswith("plot.")


def current_params() -> dict[str, Any]:
    """Those of params.yaml that affect metrics, by dotted names."""
    return {key: value for key, value in flatten(read_yaml(PARAMS)).items() if affects_metrics(key)}


def expected_band() -> dict[str, Any]:
    """What ``make seeds`` found: the seeds, and mean, standard deviation and limits of each quantity.

    Raises:
        UserError: if it has not run.
    """
    try:
        band: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{EXPECTED}: missing; make seeds writes it") from None
    except ValueError as error:
        raise UserError(f"{EXPECTED}: expected JSON, as make seeds writes it: {error}") from None
    return band


def beside_experiments(ask: Callable[[], T]) -> T:
    """What DVC answers, asked again where an experiment that starts or ends just then keeps it from telling what HEAD is.

    Raises:
        UserError: if one keeps it from that each time.
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
    """The name and the revision of the last commit and of each of its experiments that ended well.

    Raises:
        UserError: if DVC can't tell.
    """
    return finished(json.loads(beside_experiments(_shown_by_dvc)))


def _shown_by_dvc() -> str:
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if shown.returncode != 0:
        reason = shown.stderr.strip().rpartition("\n")[2] or f"exit status {shown.returncode}"
        raise UserError(f"dvc exp show: {reason}")
    return shown.stdout


def finished(shown: list[dict[str, Any]]) -> dict[str, str]:
    """Those of what ``dvc exp show --json`` prints; of several with the same parameters, the last."""
    runs: dict[str, tuple[str, str]] = {}
    for baseline in shown:
        # The newest come first. One that failed, or is not done, comes with the metrics of the commit that it started from.
        ended = [one for one in baseline["experiments"] or [] if (one["executor"] or {}).get("state") in (None, "success")]
        for one in [baseline, *(experiment["revs"][0] for experiment in reversed(ended))]:
            data = one["data"] or {}
            params = data.get("params", {}).get(str(PARAMS), {}).get("data", {})
            if params and str(DEFAULT.metrics) in data.get("metrics", {}) and one["rev"] != "workspace":
                runs[json.dumps(params, sort_keys=True)] = one.get("name") or one["rev"][:7], one["rev"]
    return dict(runs.values())
