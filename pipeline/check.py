"""Validates params.yaml before any other stage runs, so that a typo stops a run before anything is touched.

Writes the schema that editors complete from and that every stage depends on. It does not change with the values: a new value
reruns only what uses it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from pipeline.config.params import Params
from pipeline.config.paths import SCHEMA
from pipeline.config.validation import load_params
from pipeline.data.source import expect_source
from pipeline.runtime.files import write_json
from pipeline.runtime.main import run

MAX_READ = 2**28  # bytes of data that are looked into here; of larger ones the stage prepare says the same


def main() -> None:
    params = load_params()
    path = Path(params.data.path)
    expect_source(path)
    held_out = params.data.validation is not None or params.data.test is not None
    if held_out and sum(file.stat().st_size for file in (path, *path.rglob("*"))) <= MAX_READ:
        # What the data have room for, only they tell. Without it there is no need to import NumPy and Pillow.
        from pipeline.data.dataset import read_dataset
        from pipeline.data.splits import split_rows, with_held_out

        raw = read_dataset(params.data)
        split_rows(raw, with_held_out(raw, params.data))
    write_json(SCHEMA, TypeAdapter(Params).json_schema())


if __name__ == "__main__":
    run(main, __doc__)
