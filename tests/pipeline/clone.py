"""A copy of the repository with small data, in which tests use DVC as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.forked import run_code, run_forked, run_module

BIN = Path(sys.executable).parent


def dvc(*arguments: str) -> None:
    """Runs the program dvc in this process."""
    from dvc.cli import main  # type: ignore[import-untyped]  # not on every GPU machine, where tests of this folder run

    sys.exit(main(list(arguments)))


class Clone:
    """A copy of the repository, and commands run in it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        # Always on the CPU, with its own build cache: another run must not have built what is built here.
        path = f"{BIN}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "VAE_EXT_CACHE_DIR": str(self.cache)}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.environment, **environment}
        if command[0] == "dvc":
            return run_forked(dvc, *command[1:], folder=self.folder, environment=env)
        if command[0] == "python":
            runs = run_module if command[1] == "-m" else run_code
            return run_forked(runs, *command[2:], folder=self.folder, environment=env)
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def start(self, *command: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        env = {**os.environ, **self.environment}
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=stdout, stderr=subprocess.STDOUT, text=True)

    def run_ok(self, *command: str, **environment: str) -> str:
        done = self.run(*command, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def read(self, *command: str) -> dict[str, Any]:
        """Returns what a command prints as JSON; DVC's warnings go to standard error."""
        done = self.run(*command, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        printed: dict[str, Any] = json.loads(done.stdout)
        return printed

    def metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = json.loads((self.folder / "results/evaluate/metrics.json").read_text(encoding="utf-8"))
        return metrics

    def status(self) -> str:
        """Returns the changes that git reports."""
        return self.run_ok("git", "status", "--porcelain")

    def commit(self, message: str) -> None:
        self.run_ok("git", "add", "--all")
        self.run_ok("git", "commit", "--quiet", "--message", message)

    def restore(self) -> None:
        """Restores the last commit without running a stage."""
        self.run_ok("git", "restore", "--staged", "--worktree", ".")
        self.run_ok("dvc", "checkout", "--quiet")
