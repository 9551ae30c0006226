"""Checks that DVC's cache has the current weights or those of the last commit, so that `make restore` loses none.

DVC removes the current files before it looks for the cached ones: without this check, weights that are nowhere else would be
deleted and not replaced.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from dvc.repo import Repo  # type: ignore[import-untyped]

from pipeline.config.paths import DEFAULT, PARAMS, RESULTS
from pipeline.runtime.errors import UserError
from pipeline.runtime.main import run
from pipeline.studies.runs import find_runs


def main() -> None:
    (last,) = find_runs(["HEAD"])
    is_here = DEFAULT.weights.is_file()
    if last.weights is None and is_here and not _is_cached(DEFAULT.weights):
        raise UserError(
            f"{DEFAULT.weights}: not restored: neither this file nor the last commit's is in DVC's cache, so it would be lost; "
            "move it out of the repository, or remove it, and run make restore again"
        )
    found = ", ".join(f"{name} {value:.2f}" for name in ("elbo", "distortion") if math.isfinite(value := last.value(name)))
    print(f"{PARAMS}, {RESULTS}/ and {DEFAULT.models}/ go back to the last commit's: {found} nats per image")
    if last.weights is None:
        print(f"{DEFAULT.weights}: the last commit's is not in DVC's cache; make repro trains it, dvc pull fetches it")
        if is_here:
            print("The previous one stays in the cache: dvc exp apply, or dvc repro with its parameters, restores it")


def _is_cached(weights: Path) -> bool:
    return bool(Repo().cache.local.exists(hashlib.md5(weights.read_bytes()).hexdigest()))


if __name__ == "__main__":
    run(main, __doc__)
