"""What the compiled module is made from: its source files, and their digest.

Imports nothing but the standard library, because setup.py runs it before there is anything to import.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = b"vae_ext source digest "


def is_checkout() -> bool:
    """Whether this package stands in a source tree, beside the sources of its compiled module."""
    return (ROOT / "csrc" / "bindings.cpp").is_file() and (ROOT / "setup.py").is_file()


def source_digest() -> str:
    """Sha256 of everything that decides what the compiled module does: names and contents of csrc/*, and setup.py."""
    digest = hashlib.sha256()
    for path in [ROOT / "setup.py", *sorted((ROOT / "csrc").glob("*"))]:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def module_digest(module: Path) -> str | None:
    """The digest that a compiled module carries, read from its bytes: loading it would register its operators."""
    found = re.search(re.escape(MARK) + rb"([0-9a-f]{64})", module.read_bytes())
    return found.group(1).decode() if found else None
