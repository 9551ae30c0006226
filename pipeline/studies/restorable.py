"""Checks that DVC's cache has the weights of the last commit, so that `make restore` can check them out.

DVC removes the current files before it looks for the cached ones: without this check, uncommitted weights in models/ would be
deleted and not replaced.
"""

from __future__ import annotations

import math

from pipeline.config.paths import DEFAULT, PARAMS, RESULTS
from pipeline.runtime.errors import UserError
from pipeline.runtime.main import run
from pipeline.studies.runs import find_runs


def main() -> None:
    (last,) = find_runs(["HEAD"])
    if last.weights is None and DEFAULT.weights.is_file():
        raise UserError(
            f"{DEFAULT.weights}: not restored: the last commit's are not in DVC's cache, and these would only be removed; "
            'git commit -am "Results here" keeps what is here; git restore params.yaml and make repro train it again'
        )
    found = ", ".join(f"{name} {value:.2f}" for name in ("elbo", "distortion") if math.isfinite(value := last.value(name)))
    print(f"{PARAMS}, {RESULTS}/ and {DEFAULT.models}/ go back to the last commit's: {found} nats per image")
    if last.weights is None:
        print(f"{DEFAULT.weights}: not in DVC's cache; dvc pull or make repro brings it")


if __name__ == "__main__":
    run(main, __doc__)
