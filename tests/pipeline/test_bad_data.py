"""Invalid data of many kinds: one error line with the parameter or file, exit status 2, no partial output."""

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
def test_bad_data_is_one_error_line_and_writes_nothing(
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
        # Sources at which DVC would hang, or whose changes it would miss.
        "no file",
        "a class that is a link",
        "a named pipe among pictures",
        "a class whose name is not UTF-8",
        # Parameters that do not fit the data.
        "all held out",
        "a split that is there",
    ],
)
def test_check_reports_errors_before_dvc_reads_the_data(raw: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, line, data = DATA[name]
    set_params(PARAMS, {"data.path": f"data/raw/{make(raw)}", **data})
    assert error_of(check.main, capsys).startswith(f"error: {line}")
    assert not SCHEMA.exists()
