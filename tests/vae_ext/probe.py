"""A few lines in a new process, with another tree's vae_ext or another environment.

The process is forked from one that has torch and not vae_ext, so that it costs a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch"])


def run_in_new_process(code: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs Python code as ``python -c`` does, with the folder first on its path and these environment variables."""
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        process = CONTEXT.Process(target=_run, args=(code, str(folder), {**os.environ, **environment}, out, err))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(
            [code], process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        )


def _run(code: str, folder: str, environment: dict[str, str], out: Path, err: Path) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    sys.path.insert(0, folder)
    assert "vae_ext" not in sys.modules
    exec(code, {"__name__": "__main__"})
