"""Validates params.yaml before any other stage runs, so that a typo stops a run before anything is changed.

Writes the schema that editors use for completion and that every stage depends on. The schema does not depend on the values:
a new value reruns only the stages that use it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from pipeline.config.params import Params
from pipeline.config.paths import PARAMS, SCHEMA
from pipeline.config.validation import load_params
from pipeline.data.labels import expect_classes
from pipeline.data.source import expect_source
from pipeline.runtime.files import write_json
from pipeline.runtime.main import run

MAX_READ = 2**28  # bytes of data to read here; for larger data the prepare stage makes the same checks


def main() -> None:
    params = load_params()
    path = Path(params.data.path)
    expect_source(path)
    held_out = params.data.validation is not None or params.data.test is not None
    if (held_out or params.model.keys_of_classes()) and bytes_in(path) <= MAX_READ:
        # Whether the splits fit and there are classes shows only in the data. Otherwise NumPy and Pillow need not be imported.
        from pipeline.data.dataset import read_dataset
        from pipeline.data.splits import split_rows, with_held_out

        raw = read_dataset(params.data)
        expect_classes(params.model, PARAMS, raw.names, params.data.path)
        split_rows(raw, with_held_out(raw, params.data))
    write_json(SCHEMA, TypeAdapter(Params).json_schema())


def bytes_in(path: Path) -> int:
    """Returns the size of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")))


if __name__ == "__main__":
    run(main, __doc__)
