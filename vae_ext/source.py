"""What the compiled module is made from: its source files, their digest, and whether CUDA is among them.

Run by setup.py too, before there is anything to import: nothing but the standard library at the top.
"""

from __future__ import annotations

import hashlib
import os
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


def wants_cuda() -> bool:
    """Whether a build of the module should have CUDA kernels: where there is an nvcc and torch is a CUDA build.

    Never where there is a GPU: images are built where there is none. ``VAE_EXT_CUDA`` = auto, 0 or 1 (or fail) decides.
    """
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    wish = os.environ.get("VAE_EXT_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        raise ValueError(f"VAE_EXT_CUDA: expected auto, 0 or 1, got {wish!r}")
    nvcc = CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").is_file()
    missing = [
        *([] if nvcc else ["no nvcc in CUDA_HOME or on PATH"]),
        *([] if torch.version.cuda else [f"torch {torch.__version__} is not a CUDA build"]),
    ]
    if wish == "1" and missing:
        raise ValueError(f"VAE_EXT_CUDA=1, but {' and '.join(missing)}")
    return wish != "0" and not missing


def module_digest(module: Path) -> str | None:
    """The digest that a compiled module carries, read from its bytes: loading it would register its operators."""
    found = re.search(re.escape(MARK) + rb"([0-9a-f]{64})", module.read_bytes())
    return found.group(1).decode() if found else None
