"""Runs a few lines of code in a new process, with another tree's vae_ext or another environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.forked import run_code, run_forked


def run_in_new_process(code: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs Python code like ``python -c``, with the folder first on its path and these environment variables."""
    return run_forked(run_code, code, str(folder), folder=Path("/"), environment={**os.environ, **environment})
