"""Checks that the last run reproduces the results: each metric is inside the band over seeds of results/expected.json."""

from __future__ import annotations

import math
import sys

from pipeline.config.keys import diff_keys
from pipeline.config.paths import PARAMS
from pipeline.config.validation import load_params
from pipeline.runtime.errors import UserError
from pipeline.runtime.main import run
from pipeline.studies.experiments import current_params, expected_band
from pipeline.studies.runs import workspace_run


def main() -> None:
    load_params(PARAMS)
    expected = expected_band()
    found = workspace_run()
    params = current_params()
    differences = [
        f"{PARAMS}: {key}: the band is of runs with {expected['params'].get(key)}, got {params.get(key)}"
        for key in diff_keys(expected["params"], params)
    ]
    if differences:
        raise UserError("\n".join(differences))
    outside = 0
    for name, band in expected["quantities"].items():
        value = found.value(name)
        inside = band["low"] <= value <= band["high"]
        outside += not inside
        text = "missing" if math.isnan(value) else f"{value:.4f}"
        print(f"{name:>20} {text:>10} {'inside' if inside else 'OUTSIDE':>8} {band['low']:.4f} to {band['high']:.4f}")
    environment = ", ".join(f"{name} {value}" for name, value in expected["made_with"].items())
    print(f"the band: {len(expected['seeds'])} seeds on {environment}")
    if outside:
        count = len(expected["quantities"])
        print(f"not reproduced: {outside} of {count} quantities are outside of their bands", file=sys.stderr)
        sys.exit(1)
    print(f"reproduced: all {len(expected['quantities'])} quantities are inside their bands")


if __name__ == "__main__":
    run(main, __doc__)
