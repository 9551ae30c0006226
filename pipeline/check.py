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


def main() -> None:
    params = load_params()
    expect_source(Path(params.data.path))
    write_json(SCHEMA, TypeAdapter(Params).json_schema())


if __name__ == "__main__":
    run(main, __doc__)
