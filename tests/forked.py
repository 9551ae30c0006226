"""Runs a call in a new process as if a program were started, but forked from a process that has made the slow imports.

It takes a tenth of a second; importing torch alone takes two, and DVC one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# Not vae_ext, of which each tree has its own, and not the pipeline. Modules that are not installed are left out.
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
    call: Callable[..., object], *arguments: object, folder: Path, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Calls a function of a module in this folder and environment; returns the exit status and the output."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start_forked(call, *arguments, folder=folder, environment=environment, out=out.fileno(), err=err.fileno())
        process.join()
        assert process.exitcode is not None
        out.seek(0)
        err.seek(0)
        command = [call.__name__, *map(str, arguments)]
        return subprocess.CompletedProcess(command, process.exitcode, out.read(), err.read())


def start_forked(
    call: Callable[..., object],
    *arguments: object,
    folder: Path,
    environment: Mapping[str, str] = os.environ,
    out: int = 1,
    err: int = 2,
) -> BaseProcess:
    """Starts the call without waiting; its output goes to these file descriptors."""
    streams = (_Descriptor(out), _Descriptor(err))
    process = CONTEXT.Process(target=_run, args=(call, arguments, str(folder), dict(environment), streams))
    process.start()
    return process


def run_module(name: str, *arguments: str) -> None:
    """Runs a module like ``python -m``, in the working directory."""
    sys.argv = [name, *arguments]
    sys.path.insert(0, "")
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_code(code: str, folder: str = "") -> None:
    """Runs code like ``python -c``, with ``folder`` first on the path."""
    sys.path.insert(0, folder)
    exec(code, {"__name__": "__main__"})


class _Descriptor:
    """A file descriptor of this process, which is pickled as one of the receiving process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Any]]:
        return _detach, (reduction.DupFd(self.number),)


def _detach(descriptor: Any) -> int:
    return int(descriptor.detach())


def _run(
    call: Callable[..., object],
    arguments: tuple[object, ...],
    folder: str,
    environment: dict[str, str],
    streams: tuple[int, ...],
) -> None:
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(stream, descriptor)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    assert not {"vae_ext", "pipeline"} & sys.modules.keys()
    call(*arguments)
