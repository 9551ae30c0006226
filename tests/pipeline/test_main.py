"""A program of the pipeline ends with one line, whatever its terminal, locale or machine lacks."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runtime.errors import UserError, in_line, quoted
from pipeline.runtime.main import run
from tests.pipeline.conftest import ROOT


def failing(error: BaseException) -> Callable[[], None]:
    def stage() -> None:
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("x.png: expected \x1b[31m a picture"), r"error: x.png: expected \x1b[31m a picture"),
        (MemoryError(), "error: out of memory: Python could allocate no more"),
        (RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB"), "error: out of memory: CUDA out of memory. Tried"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "error: out of memory: DefaultCPUAllocator"),
        (OSError(28, "No space left on device"), "error: a file: No space left on device"),
        (PermissionError(13, "Permission denied", "results"), "error: results: Permission denied"),
    ],
)
def test_a_user_error_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(failing(error))
    output = capsys.readouterr().err
    assert (ended.value.code, output.count("\n")) == (2, 1)
    assert output.startswith(line)


def test_an_internal_error_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a shape"):
        run(failing(RuntimeError("a shape")))


def test_a_terminal_without_unicode_gets_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    stdout = io.TextIOWrapper(printed, "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    run(lambda: print("π"))
    assert printed.getvalue() == b"\\u03c0\n"


def test_a_value_in_a_message_is_short_and_on_one_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted(list(range(10**5)))) == 80
    assert in_line("a \n b\x00") == r"a b\x00"


def test_reading_files_does_not_depend_on_the_locale(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(f"# β\n{text}", encoding="utf-8")
    shutil.copytree(ROOT / "data/raw/mnist", tmp_path / "data/raw/mnist", copy_function=os.symlink)
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.check"]
    done = subprocess.run(command, cwd=tmp_path, env=ascii_only, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")


LONG = "print('x' * 200_000)"  # more than a pipe holds
OUTPUTS = {
    "nobody reads on": ("{} | head -c 1", LONG, 141, "x", ""),
    "nobody reads": ("{} | true", "import time; time.sleep(1); print('x')", 141, "", ""),
    "a full disk": ("{} > /dev/full", "print('x')", 2, "", "error: standard output: No space left on device\n"),
    "closed": ("{} >&-", "print('x')", 0, "", ""),
    "closed, and an error": ("{} >&-", "raise UserError('what is wrong')", 2, "", "error: what is wrong\n"),
    "errors not wanted": ("{} 2>&-", "raise UserError('what is wrong')", 2, "", ""),
    "all closed": ("{} <&- >&- 2>&-", "open('file', 'w').write('x'); print('y', flush=True)", 0, "", ""),
}


@pytest.mark.parametrize(("shell", "code", "status", "output", "error"), OUTPUTS.values(), ids=OUTPUTS)
def test_unwritable_output_ends_with_the_right_status_and_message(
    tmp_path: Path, shell: str, code: str, status: int, output: str, error: str
) -> None:
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
    if "file" in code:  # its descriptor is not that of the closed output
        assert (tmp_path / "file").read_text(encoding="utf-8") == "x"
