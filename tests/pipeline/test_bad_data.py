"""Bad data, of many kinds: one line that names the parameter or the file, exit status 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import check, prepare
from pipeline.config.paths import PARAMS, SCHEMA
from tests.pipeline.bad_arrays import ARRAYS, Maker
from tests.pipeline.bad_pictures import PICTURES
from tests.pipeline.conftest import error_of, set_params

DATA = ARRAYS | PICTURES


@pytest.mark.parametrize(("make", "line", "data"), DATA.values(), ids=DATA)
def test_bad_data_is_one_line_and_leaves_nothing(
    raw: Path, make: Maker, line: str, data: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(PARAMS, {"data.path": f"data/raw/{make(raw)}", **data})
    error = error_of(prepare.main, capsys)
    assert error.startswith(f"error: {line}")
    assert len(error.splitlines()) == 1
    assert [path.name for path in Path("data").iterdir()] == ["raw"]


@pytest.mark.parametrize(
    "name",
    [
        # What DVC hangs at or misses.
        "no file",
        "a class that is a link",
        "a named pipe among pictures",
        "a class whose name is not UTF-8",
        # Parameters that the data do not fit.
        "all held out",
        "a split that is there",
    ],
)
def test_check_says_what_is_wrong_before_dvc_reads_the_data(raw: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, line, data = DATA[name]
    set_params(PARAMS, {"data.path": f"data/raw/{make(raw)}", **data})
    assert error_of(check.main, capsys).startswith(f"error: {line}")
    assert not SCHEMA.exists()
