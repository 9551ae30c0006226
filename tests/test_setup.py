"""make reports missing prerequisites in one line before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import init_git
from tests.programs import outside_make, script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The files that make reads, without a git history."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("pipeline", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    return tmp_path


def make(folder: Path, *arguments: str) -> str:
    """Returns the errors of a failing make, its own line and one of ours; its Python has only the standard library."""
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable} -S", *arguments]
    done = subprocess.run(command, cwd=folder, env=outside_make(), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    error, _ = done.stderr.splitlines()
    assert not (folder / ".venv/bin/pip").exists()
    return error


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13), (3, 14, 0)])
def test_an_unsupported_python_is_rejected_before_the_installation(unpacked: Path, version: tuple[int, ...]) -> None:
    code = f"import runpy, sys; sys.version_info = {version}; runpy.run_path(sys.argv[1])"
    python = script(unpacked / "python", f'exec {sys.executable} -c "{code}" "$@"')
    found = ".".join(map(str, version))
    assert make(unpacked, "setup", f"PYTHON={python}").startswith(f"error: Python: expected 3.11 to 3.13, got {found} (")


def test_a_folder_without_a_git_history_is_rejected(unpacked: Path) -> None:
    assert make(unpacked, "repro").startswith(f"error: {unpacked}: expected a git repository with a commit")


def test_a_moved_environment_is_rejected(unpacked: Path) -> None:
    (unpacked / ".venv").mkdir()
    (unpacked / ".venv/.ready").write_text("/elsewhere/.venv\n", encoding="utf-8")
    assert make(unpacked, "repro") == (
        "error: .venv: made in /elsewhere/.venv, and works nowhere else; rm -r .venv, and make again"
    )


def test_a_linked_environment_is_used_as_it_is_and_rejected_with_another_lock(unpacked: Path) -> None:
    """Also if it is older than this checkout's requirements.lock, as in a new worktree."""
    owner = unpacked / "owner"
    (owner / ".venv").mkdir(parents=True)
    (owner / ".venv/.ready").write_text(f"{owner}/.venv\n", encoding="utf-8")
    os.utime(owner / ".venv/.ready", (0, 0))
    shutil.copy(unpacked / "requirements.lock", owner)
    (unpacked / ".venv").symlink_to("owner/.venv")
    subprocess.run(["make", "--silent", "setup"], cwd=unpacked, env=outside_make(), check=True)
    (owner / "requirements.lock").write_text("", encoding="utf-8")
    error = "error: .venv: linked from a checkout with another requirements.lock; rm .venv, and make again"
    assert make(unpacked, "setup") == error


def test_make_recipe_asks_for_a_name_before_anything_is_installed(unpacked: Path) -> None:
    init_git(unpacked)
    assert make(unpacked, "recipe").startswith("error: recipes: no recipe ''; expected one of aevb_mlp_2d,")
    assert make(unpacked, "recipe", "NAME=iwae_k6").startswith("error: recipes: no recipe 'iwae_k6'; did you mean iwae_k")


def test_make_recipe_uses_the_python_of_an_existing_environment(unpacked: Path) -> None:
    """The machine's default Python may be too old, and is not used then."""
    (unpacked / ".venv/bin").mkdir(parents=True)
    (unpacked / ".venv/bin/python").symlink_to(sys.executable)
    (unpacked / ".venv/.ready").write_text(f"{unpacked}/.venv\n", encoding="utf-8")
    assert make(unpacked, "recipe", "PYTHON=false").startswith("error: recipes: no recipe ''; expected one of")
