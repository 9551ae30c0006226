"""Whether the last run reproduces the results: each metric beside the band that other seeds gave, results/expected.json."""

from __future__ import annotations

import json
import sys

from pipeline.config.keys import diff_keys
from pipeline.config.paths import DEFAULT, EXPECTED, PARAMS
from pipeline.config.validation import load_params
from pipeline.runtime.errors import UserError
from pipeline.runtime.main import run
from pipeline.studies.experiments import current_params


def main() -> None:
    load_params(PARAMS)
    files = {}
    for path, command in ((EXPECTED, "make seeds"), (DEFAULT.metrics, "dvc repro")):
        try:
            files[path] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: missing; {command} writes it") from None
        except ValueError as error:
            raise UserError(f"{path}: expected JSON, as {command} writes it: {error}") from None
    expected, metrics = files[EXPECTED], files[DEFAULT.metrics]
    params = current_params()
    differences = [
        f"{PARAMS}: {key}: the band is of runs with {expected['params'].get(key)}, got {params.get(key)}"
        for key in diff_keys(expected["params"], params)
    ]
    if differences:
        raise UserError("\n".join(differences))
    outside = 0
    for name, band in expected["quantities"].items():
        value = metrics.get(name)
        inside = value is not None and band["low"] <= value <= band["high"]
        outside += not inside
        text = "missing" if value is None else f"{value:.4f}"
        print(f"{name:>20} {text:>10} {'inside' if inside else 'OUTSIDE':>8} {band['low']:.4f} to {band['high']:.4f}")
    environment = ", ".join(f"{name} {value}" for name, value in expected["made_with"].items())
    print(f"the band: {len(expected['seeds'])} seeds on {environment}")
    if outside:
        print(f"{outside} of {len(expected['quantities'])} outside", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(main, __doc__)
