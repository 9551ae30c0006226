"""Programs that tests start, their environment, and substitutes for programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def outside_make() -> dict[str, str]:
    """Returns the environment with the programs beside this Python, and without variables of a surrounding make."""
    read = {"MFLAGS", *re.findall(r"\$\(([A-Z]+)\)", MAKEFILE.read_text(encoding="utf-8"))}
    kept = {name: value for name, value in os.environ.items() if name not in read and not name.startswith("MAKE")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def start_python(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts Python with this repository's modules, on the CPU, with pipes, and without variables of DVC and torchrun."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "RANK")}
    env = {**kept, "PYTHONPATH": str(MAKEFILE.parent), "CUDA_VISIBLE_DEVICES": "", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    """Reads a process's output until a line contains this text."""
    assert process.stdout is not None and process.stderr is not None
    assert any(text in line for line in process.stdout), process.stderr.read()


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def quick_compiler(folder: Path, module: Path, instead: dict[str, str] | None = None) -> str:
    """Writes a C++ compiler that instantly links this module, whatever the sources; ``instead`` replaces some of its bytes."""
    changes = "".join(f" -e s/{old}/{new}/" for old, new in (instead or {}).items())
    # By its arguments: -c compiles; -shared links; anything else asks for the compiler's version.
    return script(
        folder / "c++",
        'for last in "$@"; do [ "$previous" = -o ] && output=$last; previous=$last; done',
        'case " $* " in',
        f"  *' -shared '*) LC_ALL=C sed -e '' {changes} '{module}' > \"$output\" && chmod +x \"$output\" ;;",
        "  *' -c '*) : > \"$output\" ;;",
        f'  *) exec {shutil.which("c++")} "$@" ;;',
        "esac",
    )
