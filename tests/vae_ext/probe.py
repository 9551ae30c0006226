"""A few lines in a new process, with another tree's vae_ext or another environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.forked import run_forked


def run_in_new_process(code: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs Python code as ``python -c`` does, with the folder first on its path and these environment variables."""
    return run_forked(_run, code, str(folder), folder=Path("/"), environment={**os.environ, **environment})


def _run(code: str, folder: str) -> None:
    sys.path.insert(0, folder)
    exec(code, {"__name__": "__main__"})
