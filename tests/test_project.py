"""The project's own files agree with each other."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires
from itertools import chain
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *chain(*project["optional-dependencies"].values())]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_everything_that_is_installed_is_pinned() -> None:
    """What pyproject.toml asks for, and all that those packages ask for in turn."""
    pinned, seen, todo = locked(), set(), [Requirement(line) for line in wanted()]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        assert name in pinned, requirement
        assert pinned[name] in requirement.specifier, requirement
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        # torch pins the CUDA packages that belong to it by itself.
        needed = [Requirement(line) for line in lines if not (name == "torch" and "Linux" in line)]
        todo += [r for r in needed if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def test_torch_is_pinned_without_a_build_of_one_machine() -> None:
    assert "+" not in locked()["torch"]
