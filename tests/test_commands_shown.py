"""Every command shown is run: each command of the documentation and the Makefile is in a table with the test that runs it.

Commands are lines of code blocks, code spans that start with a program, and the commands of the Makefile's targets, for which
`make bench`, for example, stands. A test runs a command in smoke size: the command itself on small data, or its function.
"""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from mypy.main import process_options

from pipeline.config.params import Params
from pipeline.config.plain_yaml import read_yaml, read_yaml_text
from pipeline.config.validation import validated
from tests.programs import outside_make
from tests.shown_commands import ROOT, commands_of, shown, shown_in, targets
from tests.tested_commands import SHOWN, TESTS, WORKED


def test_every_command_shown_has_a_test() -> None:
    assert {command: where for command, where in shown().items() if command not in TESTS} == {}


def test_every_command_in_the_table_is_shown() -> None:
    assert TESTS.keys() - shown().keys() == set()


def test_every_test_in_the_table_exists() -> None:
    """Some are marked long, and run only in `make test-all`."""
    for node in sorted(set(TESTS.values())):
        file, name = node.split("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {function.name for function in tree.body if isinstance(function, ast.FunctionDef)}, node


def test_the_parameters_of_every_experiment_shown_are_valid() -> None:
    """Of several values the first is checked. Those of a worked example are tested with it: they need its patch."""
    given = re.compile(r"-S '?([a-z_.]+)=(\{[^']*\}|[^ ,']+)")  # not keys of a recipe's file
    experiments = {command: given.findall(command) for command, test in TESTS.items() if test != WORKED}
    shown_here = {command: changes for command, changes in experiments.items() if changes}
    assert len(shown_here) >= 8
    for command, changes in shown_here.items():
        params = read_yaml(ROOT / "params.yaml")
        for name, value in changes:
            section, _, key = name.rpartition(".")
            (params[section] if section else params)[key] = read_yaml_text(value, Path(command))
        validated(Params, params, command)


def test_a_command_without_an_entry_is_detected_wherever_it_is_shown() -> None:
    page = "`dvc new span` and\n\n    OMP_NUM_THREADS=1 dvc new block    # comment\n\n```sh\nvae new fence && git new\n```\n"
    assert list(shown_in(page)) == ["dvc new span", "dvc new block", "vae new fence", "git new"]
    assert list(shown_in("```python\nimport new\nnew.do()\n```\n\n- a list\n\n      printed: by something\n")) == [
        "python: import new",
        "output: printed: by something",
    ]


@pytest.mark.parametrize("between", [";", " ; ", "&", " & ", "&&", " && ", "||", "|", " | ", " 2>&1 | "])
def test_a_command_is_detected_after_another(between: str) -> None:
    assert list(commands_of(f"cd x{between}dvc new")) == ["dvc new"]


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ('echo "$(dvc new)"', ["dvc new"]),
        ("cd $(git new $(dvc new)); vae new", ["dvc new", "git new $(dvc new)", "vae new"]),
        ("(cd x; dvc new) || { vae new; exit 2; }", ["dvc new", "vae new"]),
        ("OMP_NUM_THREADS=$(( ($(nproc) + 1) / 2 )) dvc new  # $ vae old; git old", ["dvc new"]),
        ("""dvc new -S 'a=1;b & $(c)' "can't; or" 2>&1""", ["""dvc new -S 'a=1;b & $(c)' "can't; or" 2>&1"""]),
    ],
)
def test_a_nested_command_is_detected_and_text_is_not_a_command(line: str, commands: list[str]) -> None:
    assert list(commands_of(line)) == commands


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    hidden = {"help", "named", "unmoved"}  # the last two only run checks for others
    rules = set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.MULTILINE))
    assert {target.split()[0] for target in targets()} == set(phony[1].split()) - hidden == rules - hidden


# A substitute for Python whose environments have a pip that installs nothing.
PYTHON = """#!/bin/sh
test "$1" = -m || exit 0  # a check of the machine
"{python}" "$1" "$2" --without-pip "$3" || exit
printf '%s\\n' '#!/bin/sh' 'echo "$@" >> "{log}"' > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that the Makefile's set-up reads, and a Python that needs no network."""
    (tmp_path / "pipeline").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "pipeline/vae"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON.format(python=sys.executable, log=tmp_path / "log"), encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> None:
    command = ["make", "--silent", f"PYTHON={folder}/python", *arguments]
    environment = outside_make() | environment
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_setup_installs_the_lock_and_a_vae_command(project: Path) -> None:
    make(project, "setup")
    asked = (project / "log").read_text(encoding="utf-8").splitlines()
    assert [line.split()[-1] for line in asked] == ["requirements.lock", "torch==2.13.0"]
    (project / "pipeline/__main__.py").write_text("import sys; print('pipeline', *sys.argv[1:])", encoding="utf-8")
    shell = ["sh", "-c", ". .venv/bin/activate && cd / && vae info"]
    assert subprocess.run(shell, cwd=project, capture_output=True, text=True, check=True).stdout == "pipeline info\n"
    make(project, ".venv-pythae/.ready")
    assert "pythae==" in (project / "log").read_text(encoding="utf-8")


def test_lock_has_a_checksum_for_every_file_and_leaves_torch_out(project: Path) -> None:
    """Uses an index with one package and torch, and a project that requires both."""
    make(project, "setup")
    (project / ".venv/bin/uv").symlink_to(Path(sys.executable).parent / "uv")
    for name in ("small", "torch"):
        with zipfile.ZipFile(project / f"{name}-3.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}-3.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.0\n")
            wheel.writestr(f"{name}-3.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{name}-3.0.dist-info/RECORD", "")
    pyproject = """
        [project]
        name = "mine"
        version = "1"
        requires-python = ">=3.11"
        dependencies = ["torch>=2"]
        optional-dependencies = {cuda = []}
        [dependency-groups]
        pipeline = ["small"]
        onnx = []
        dev = []
        docs = []
    """
    (project / "pyproject.toml").write_text(textwrap.dedent(pyproject), encoding="utf-8")
    (project / "requirements.lock").write_text("", encoding="utf-8")
    make(project, "lock", UV_NO_INDEX="1", UV_FIND_LINKS=str(project), UV_CACHE_DIR=str(project / "cache"))
    lock = (project / "requirements.lock").read_text(encoding="utf-8")
    checksum = hashlib.sha256((project / "small-3.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert re.findall(r"^(?!#)\S.*", lock, re.MULTILINE) == ["small==3.0 \\"]
    assert f"--hash=sha256:{checksum}" in lock


def test_the_tools_of_make_test_accept_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """ruff checks this file, clang-format a header; mypy and pytest only parse their options and configuration."""
    monkeypatch.chdir(ROOT)
    environment = outside_make() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for command in ("ruff check", "ruff format --check"):
        subprocess.run([*command.split(), SHOWN], env=environment, check=True, capture_output=True)
    (check_format,) = [command for command in TESTS if command.startswith("clang-format ")]
    subprocess.run([*check_format.split()[:3], "csrc/gaussian.h"], env=environment, check=True, capture_output=True)
    sources, _ = process_options([])
    assert {SHOWN, "setup.py"} <= {source.path for source in sources}
    options, _ = [shlex.split(command) for command in TESTS if command.startswith("pytest ")]
    empty = [*options, "-p", "xdist", "--collect-only", "tests/plain.py"]
    done = subprocess.run(empty, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout + done.stderr
