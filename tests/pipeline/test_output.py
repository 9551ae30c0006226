"""A program's output may be closed, full, or no longer wanted: it ends in one line or in silence, never in a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT

LONG = "print('x' * 200_000)"  # more than a pipe holds
CASES = {
    "nobody reads on": ("{} | head -c 1", LONG, 141, "x", ""),
    "nobody reads": ("{} | true", "import time; time.sleep(1); print('x')", 141, "", ""),
    "a full disk": ("{} > /dev/full", "print('x')", 2, "", "error: standard output: No space left on device\n"),
    "closed": ("{} >&-", "print('x')", 0, "", ""),
    "closed, and an error": ("{} >&-", "raise UserError('what is wrong')", 2, "", "error: what is wrong\n"),
    "errors not wanted": ("{} 2>&-", "raise UserError('what is wrong')", 2, "", ""),
    "all closed": ("{} <&- >&- 2>&-", "open('file', 'w').write('x'); print('y', flush=True)", 0, "", ""),
}


@pytest.mark.parametrize(("shell", "code", "status", "output", "error"), CASES.values(), ids=CASES)
def test_output_that_cannot_be_written(tmp_path: Path, shell: str, code: str, status: int, output: str, error: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"from pipeline.runtime.errors import UserError\nfrom pipeline.runtime.main import run\nrun(lambda: exec({code!r}))\n",
        encoding="utf-8",
    )
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell.format(f"{sys.executable} {program}")],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, output, error)
    if "file" in code:  # to which nothing else was written, as if it were the output
        assert (tmp_path / "file").read_text(encoding="utf-8") == "x"
