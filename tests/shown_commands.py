"""Finds the commands that README.md, CONTRIBUTING.md, SECURITY.md, docs/ and the Makefile show."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

from tests.programs import outside_make

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README", "CONTRIBUTING", "SECURITY")
PROGRAMS = {"make", "vae", "dvc", "git", "python", "python3", "pip", "torchrun", "ruff", "mypy", "pytest", "mkdocs", "uv", "."}
SYSTEM = {
    "apt",
    "cat",
    "cd",
    "chmod",
    "cmp",
    "echo",
    "exit",
    "ln",
    "mkdir",
    "nproc",
    "printf",
    "rm",
    "sed",
    "test",
    "touch",
}  # commands of other projects
GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->", re.DOTALL)  # generated from the code
# Shell syntax: quoted text, command substitution, and separators of commands.
QUOTED = r"""'[^']*'|"(?:\\.|[^"\\])*\""""
ARITHMETIC = r"\$\(\(.*?\)\)"
SUBSTITUTION = r"\$\((?!\()((?:[^()]|\([^()]*\))*)\)"
BETWEEN = r"(?:^|(?<=\s))(?:#.*|[{}](?=\s|$))|[;&|()]"


def commands_of(line: str) -> Iterator[str]:
    """Yields our commands in a line of shell, without comments, variables and the code of python -c."""
    runs = re.sub(QUOTED, lambda found: found[0] if found[0].startswith('"') else "", line)
    for substituted in re.findall(SUBSTITUTION, runs):
        yield from commands_of(substituted)
    kept = f"(?:{QUOTED}|{ARITHMETIC}|{SUBSTITUTION}|[<>]&)"
    for part in re.sub(f"(?P<kept>{kept})|{BETWEEN}", lambda found: found["kept"] or "\n", line).splitlines():
        command = re.sub(r'^(?:[A-Z0-9_]+=(?:"[^"]*"|\$\(\(.*?\)\)|\S*)\s+)+', "", part.strip().lstrip("@"))
        command = re.sub(r"( -c) .*", r"\1", command)
        if command and first_word(command) not in SYSTEM:
            yield command


def first_word(command: str) -> str:
    return command.split(" ")[0].rsplit("/")[-1]


def shown_in(page: str) -> Iterator[str]:
    """Yields the commands of a page; a block of Python or of output counts as one, by its first line."""
    for token in MarkdownIt().enable("table").parse(page):
        if token.type in ("code_block", "fence"):
            lines = [line for line in token.content.splitlines() if line.strip()]
            if token.info == "python":
                yield f"python: {lines[0]}"
            elif first_word(lines[0].split("=", 1)[-1].split(" ", 1)[-1] if "=" in first_word(lines[0]) else lines[0]) not in (
                PROGRAMS | SYSTEM
            ):
                yield f"output: {lines[0]}"
            else:
                for line in lines:
                    yield from commands_of(line)
        for span in token.children or []:
            if span.type == "code_inline" and " " in span.content and first_word(span.content) in PROGRAMS:
                yield from commands_of(span.content)


def dry_run(target: str) -> str:
    """Returns what make would run for a target, including set-up, without running it."""
    command = ["make", "--dry-run", "--always-make", "ANY_PYTHON=python3", *shlex.split(target)]
    done = subprocess.run(command, cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"make {target}: {done.stderr}"
    return done.stdout.replace("\\\n", "")


def targets() -> list[str]:
    """Returns the targets that `make help` lists, with their required variables."""
    command = ["make", "--silent", "help"]
    done = subprocess.run(command, cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=True)
    return re.findall(r"^make (\S+(?: [A-Z]+=\S+)?)", done.stdout, re.MULTILINE)


def shown() -> dict[str, str]:
    """Returns each command with the place where it is shown; a make target stands for the commands of its recipe."""
    found = {"make": "README.md"}
    for page in [*(ROOT / f"{name}.md" for name in PAGES), *sorted((ROOT / "docs").rglob("*.md"))]:
        for command in shown_in(GENERATED.sub("", page.read_text(encoding="utf-8"))):
            found[command] = page.name
    with_variables = {target.split()[0]: target for target in targets()}
    made = {command.removeprefix("make ") for command in found if command.startswith("make ")}
    found = {command: where for command, where in found.items() if not command.startswith("make ")}
    for target in sorted({*(with_variables.get(target, target) for target in made), *with_variables.values()}):
        for line in dry_run(target).splitlines():
            for command in commands_of(line):
                found.setdefault(command, f"make {target}")
    return found
