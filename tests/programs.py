"""The environment of a program that a test starts."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def outside_make() -> dict[str, str]:
    """This process's environment, with the programs beside its Python, and as if no make with variables of its own ran it."""
    read = {"MFLAGS", *re.findall(r"\$\(([A-Z]+)\)", MAKEFILE.read_text(encoding="utf-8"))}
    kept = {name: value for name, value in os.environ.items() if name not in read and not name.startswith("MAKE")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
