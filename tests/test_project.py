"""The project's own files agree with each other."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *chain(*project["optional-dependencies"].values())]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
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


def text_calls(source: str) -> list[tuple[int, bool]]:
    """Each call that reads or writes a file as text, and whether it names the encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        owner = getattr(node.func.value, "id", None) if isinstance(node.func, ast.Attribute) else None
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant) and argument.value != ""]
        binary = any(isinstance(mode, str) and re.fullmatch("[rwax+]*b[rwax+]*", mode) for mode in modes)
        of_text = called in ("read_text", "write_text", "fdopen") or (
            called == "open" and owner not in ("Image", "archive", "gzip", "os", "tarfile")
        )
        if of_text and not binary:
            found.append((node.lineno, any(keyword.arg == "encoding" for keyword in node.keywords)))
    return found


def test_every_text_file_names_its_encoding() -> None:
    """A locale may say otherwise: under zh_CN.GBK, Python reads GBK where nothing else is asked for."""
    assert text_calls("p.read_text()\nopen(p)\np.open('w')\np.open('rb')") == [(1, False), (2, False), (3, False)]
    for folder in ("pipeline", "vae_ext", "tests", "setup.py"):
        for path in sorted((ROOT / folder).rglob("*.py")) or [ROOT / folder]:
            lines = [line for line, named in text_calls(path.read_text(encoding="utf-8")) if not named]
            assert not lines, f"{path}: lines {lines}"
