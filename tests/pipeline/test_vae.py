"""The program vae runs the code of the right checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT


def checkout(folder: Path) -> Path:
    """Makes a checkout whose pipeline prints its path."""
    (folder / "pipeline").mkdir(parents=True)
    shutil.copy(ROOT / "pipeline/vae", folder / "pipeline")
    (folder / "pipeline/__main__.py").write_text("import sys; print(__file__, *sys.argv[1:])", encoding="utf-8")
    return folder


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    """A checkout with an environment, as `make setup` makes it."""
    owner = checkout(tmp_path / "owner")
    (owner / ".venv/bin").mkdir(parents=True)
    (owner / ".venv/bin/python").symlink_to(sys.executable)
    (owner / ".venv/bin/vae").symlink_to("../../pipeline/vae")
    return owner


@pytest.fixture
def sharing(owner: Path, tmp_path: Path) -> Path:
    """A checkout whose .venv links to the other's."""
    sharing = checkout(tmp_path / "sharing")
    (sharing / ".venv").symlink_to(owner / ".venv")
    return sharing


def run_vae(program: Path | str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [program, "info"], cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_shared_environment_runs_the_code_of_the_calling_checkout(owner: Path, sharing: Path, tmp_path: Path) -> None:
    code, shared = f"{owner}/pipeline/__main__.py info\n", f"{sharing}/pipeline/__main__.py info\n"
    assert run_vae(owner / ".venv/bin/vae", tmp_path) == code
    assert run_vae(sharing / ".venv/bin/vae", tmp_path) == shared
    activated = f"{owner}/.venv/bin:{os.environ['PATH']}"  # the effect of `. .venv/bin/activate` in either
    assert run_vae("vae", owner, PATH=activated) == code
    assert run_vae("vae", sharing, PATH=activated) == shared


def test_another_package_named_pipeline_is_not_run(owner: Path, tmp_path: Path) -> None:
    foreign = checkout(tmp_path / "foreign")
    assert run_vae(owner / ".venv/bin/vae", foreign) == f"{owner}/pipeline/__main__.py info\n"
