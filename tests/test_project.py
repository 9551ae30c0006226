"""The project's files are consistent with each other."""

from __future__ import annotations

import ast
import json
import os
import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, requires
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import vae_ext
from pipeline.config.plain_yaml import read_yaml
from tests.shown_commands import targets

ROOT = Path(__file__).resolve().parents[1]


def wanted() -> list[str]:
    """Returns the requirements of pyproject.toml."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = config["project"]["optional-dependencies"], config["dependency-groups"]
    return [*config["project"]["dependencies"], *chain(*extras.values(), *groups.values())]


def locked() -> dict[str, str]:
    """Returns the version of each package in the lock, and of torch, which the Makefile pins."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8") + (ROOT / "Makefile").read_text(encoding="utf-8")
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^(?:TORCH := )?([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


def test_every_installed_package_is_pinned() -> None:
    """The requirements, and their dependencies."""
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
        # torch pins its CUDA packages itself.
        needed = [Requirement(line) for line in lines if not (name == "torch" and "Linux" in line)]
        todo += [r for r in needed if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def test_wheels_are_built_for_every_supported_python_with_the_pinned_torch_and_are_not_published() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheels, pythons = config["tool"]["cibuildwheel"], SpecifierSet(config["project"]["requires-python"])
    assert wheels["build"] == [f"cp3{minor}-*" for minor in range(20) if f"3.{minor}" in pythons]
    assert wheels["before-build"] == f"pip install torch=={locked()['torch']}"
    (job,) = read_yaml(ROOT / ".github/workflows/wheels.yml")["jobs"].values()
    used = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert used == ["actions/checkout", "actions/setup-python", "actions/upload-artifact"]
    run = [step["run"].split()[:3] for step in job["steps"] if "run" in step]
    assert run == [["python", "-m", "pip"], ["python", "-m", "cibuildwheel"]]


def test_the_range_of_python_versions_is_the_same_everywhere() -> None:
    """In pyproject.toml, on the documentation's first page and in the tools; and the lock is resolved for the oldest."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["project"]["requires-python"] == ">=3.11,<3.14"
    assert config["tool"]["ruff"]["target-version"] == "py311"
    assert config["tool"]["mypy"]["python_version"] == "3.11"
    assert "Python 3.11 to 3.13" in (ROOT / "docs/index.md").read_text(encoding="utf-8")
    needed = []
    for name in locked():
        try:
            needed.append(SpecifierSet(metadata(name)["Requires-Python"] or ""))
        except PackageNotFoundError:
            continue
    assert all(Version("3.11.4") in each for each in needed)
    assert not all(Version("3.10.13") in each for each in needed)


def test_the_tested_python_versions_are_listed() -> None:
    """In the classifiers; docs/design/platforms.md says for each supported one what has been tested."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    supported = [f"3.{minor}" for minor in range(20) if f"3.{minor}" in SpecifierSet(config["project"]["requires-python"])]
    classified = [
        line.split()[-1] for line in config["project"]["classifiers"] if line.startswith("Programming Language :: Python")
    ]
    platforms = (ROOT / "docs/design/platforms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (3\.\d+) \| (.*) \|$", platforms, re.MULTILINE)
    assert [version for version, _ in rows] == supported
    assert classified == [version for version, stated in rows if not stated.endswith("not tested")]


def test_the_version_is_the_same_everywhere() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version, date = re.findall(
        r"^## \[([\d.]+)\] - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )[0]
    citation = read_yaml(ROOT / "CITATION.cff")
    assert version == config["project"]["version"] == citation["version"] == vae_ext.__version__
    assert date == str(citation["date-released"])


def test_ci_and_the_commit_hook_run_the_same_checks() -> None:
    """GitHub's CI, and the pre-commit hook."""
    steps = read_yaml(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    assert os.access(ROOT / steps[-1]["run"], os.X_OK)
    (hook,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert hook["entry"].split()[-1] in targets()
    assert json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))["postCreateCommand"] in (
        f"make {target}" for target in targets()
    )


def text_calls(source: str) -> list[tuple[int, bool]]:
    """Returns the line of each call that reads or writes a text file, and whether it passes an encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        owner = getattr(node.func.value, "id", None) if isinstance(node.func, ast.Attribute) else None
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant) and argument.value != ""]
        binary = any(isinstance(mode, str) and re.fullmatch("[rwax+]*b[rwax+]*", mode) for mode in modes)
        # A function write_text is the one of pipeline/runtime/files.py, which writes UTF-8.
        of_text = (isinstance(node.func, ast.Attribute) and called in ("read_text", "write_text", "fdopen")) or (
            called == "open" and owner not in ("Image", "archive", "gzip", "os", "tarfile")
        )
        if of_text and not binary:
            found.append((node.lineno, any(keyword.arg == "encoding" for keyword in node.keywords)))
    return found


def test_every_text_file_is_opened_with_an_encoding() -> None:
    """The locale's encoding may be another one: under zh_CN.GBK, Python reads GBK by default."""
    assert text_calls("p.read_text()\nopen(p)\np.open('w')\np.open('rb')") == [(1, False), (2, False), (3, False)]
    for folder in ("pipeline", "vae_ext", "tests", "setup.py"):
        for path in sorted((ROOT / folder).rglob("*.py")) or [ROOT / folder]:
            lines = [line for line, named in text_calls(path.read_text(encoding="utf-8")) if not named]
            assert not lines, f"{path}: lines {lines}"
