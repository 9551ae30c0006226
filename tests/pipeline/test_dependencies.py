"""DVC runs a stage again when its code has changed: what a stage imports is what dvc.yaml says that it depends on."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from pipeline.plain_yaml import read_yaml
from tests.pipeline.conftest import ROOT

# Of these no result depends: how a program starts and where files lie. What params.py allows, the schema says.
PLUMBING = {"cli", "device", "files", "lock", "params", "parent", "paths", "plain_yaml", "progress", "source"}
FILES = [ROOT / "dvc.yaml", ROOT / "recipes/dvc.yaml"]
STAGES = [
    (file, name, stage)
    for file in FILES
    for name, stage in read_yaml(file)["stages"].items()
    if "deps" in stage and name not in ("check", "resolve")
]


def imported(module: str, seen: set[str]) -> set[str]:
    """The pipeline's modules that one imports, directly or not, itself among them."""
    seen.add(module)
    for node in ast.walk(ast.parse((ROOT / "pipeline" / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            names = [alias.name for alias in node.names] if node.module == "pipeline" else [str(node.module).split(".")[1]]
            for name in names:
                if name not in seen:
                    imported(name, seen)
    return seen


@pytest.mark.parametrize(("file", "name", "stage"), STAGES, ids=[f"{file.parent.name}-{name}" for file, name, _ in STAGES])
def test_a_stage_depends_on_the_code_that_it_runs(file: Path, name: str, stage: dict[str, Any]) -> None:
    deps = {dep.removeprefix("../") for dep in stage["deps"]}
    listed = {Path(dep).stem for dep in deps if dep.startswith("pipeline/") and dep.endswith(".py")}
    module = stage["cmd"].split("python -m pipeline.")[1].split()[0]
    assert listed == imported(module, set()) - PLUMBING
    if "model" in listed:
        # In recipes/, whose .dvcignore would not be heard about __pycache__ out there, a package is its files.
        package = {f"vae_ext/{path.name}" for path in (ROOT / "vae_ext").glob("*.py")} if file.parent != ROOT else {"vae_ext"}
        assert {*package, "csrc", "setup.py"} <= deps


def test_stages_are_entry_points_and_nothing_imports_them() -> None:
    entries = {path.stem for path in (ROOT / "pipeline").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")} - {
        "params"
    }
    for path in (ROOT / "pipeline").glob("*.py"):
        assert not (imported(path.stem, set()) - {path.stem}) & entries
