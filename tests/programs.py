"""Programs that a test starts, their environment, and programs in the place of others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def outside_make() -> dict[str, str]:
    """This process's environment, with the programs beside its Python, and as if no make with variables of its own ran it."""
    read = {"MFLAGS", *re.findall(r"\$\(([A-Z]+)\)", MAKEFILE.read_text(encoding="utf-8"))}
    kept = {name: value for name, value in os.environ.items() if name not in read and not name.startswith("MAKE")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def start_python(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Python with this repository's modules, on the CPU, and with pipes; as if neither DVC nor torchrun had started it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "RANK")}
    env = {**kept, "PYTHONPATH": str(MAKEFILE.parent), "CUDA_VISIBLE_DEVICES": "", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    """Reads what the process prints until a line has this text in it."""
    assert process.stdout is not None and process.stderr is not None
    assert any(text in line for line in process.stdout), process.stderr.read()


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def quick_compiler(folder: Path, module: Path, instead: dict[str, str] | None = None) -> str:
    """A C++ compiler that links this module in no time, whatever its sources say; with other bytes instead of some."""
    changes = "".join(f" -e s/{old}/{new}/" for old, new in (instead or {}).items())
    # Of its arguments: -c, compile; -shared, link; anything else asks what compiler this is.
    return script(
        folder / "c++",
        'for last in "$@"; do [ "$previous" = -o ] && output=$last; previous=$last; done',
        'case " $* " in',
        f"  *' -shared '*) LC_ALL=C sed -e '' {changes} '{module}' > \"$output\" && chmod +x \"$output\" ;;",
        "  *' -c '*) : > \"$output\" ;;",
        f'  *) exec {shutil.which("c++")} "$@" ;;',
        "esac",
    )
