"""A call in a new process, as if a program were started, but forked from one that has imported what takes long.

So it costs a tenth of a second, where torch alone takes two to import, and DVC one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# Not vae_ext, of which each tree has its own, and not the pipeline. What a machine lacks is left out.
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "dvc.cli.parser",
        "dvc.repo.experiments.queue.celery",
        "dvc.repo.experiments.show",
        "dvc.repo.graph",
        "dvc.repo.plots",
        "dulwich.porcelain",
        "networkx",
        "ruamel.yaml",
    ]
)


def run_forked(
    call: Callable[..., object], *arguments: object, folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Calls a function of a module in this folder and environment, and returns how the process ended, and what it wrote."""
    with tempfile.TemporaryDirectory() as scratch:
        written = [Path(scratch) / name for name in ("out", "err")]
        process = CONTEXT.Process(target=_run, args=(call, arguments, str(folder), environment, written))
        process.start()
        process.join()
        assert process.exitcode is not None
        out, err = (path.read_text(encoding="utf-8") for path in written)
        return subprocess.CompletedProcess([call.__name__, *map(str, arguments)], process.exitcode, out, err)


def _run(
    call: Callable[..., object], arguments: tuple[object, ...], folder: str, environment: dict[str, str], written: list[Path]
) -> None:
    for descriptor, path in enumerate(written, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    assert "vae_ext" not in sys.modules
    call(*arguments)
