"""Identifies the code that a result depends on: loaded files for a checkpoint's key, package digests for recipes/dvc.yaml.

``python -m pipeline.config.code`` writes the digests to recipes/code.json; a DVC dependency on a folder would include its
compiled files.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import vae_ext
from pipeline.config.paths import CODE
from pipeline.runtime.files import write_json
from pipeline.runtime.main import run

PIPELINE = Path(__file__).parents[1]
VAE_EXT = Path(vae_ext.__file__).parent
SUFFIXES = {".py", ".html", ".css", ".js"}


def loaded_code() -> list[Path]:
    """Returns the files of this repository's loaded modules, from every package."""
    ours = (f"{PIPELINE}/", f"{VAE_EXT}/")  # strings: a Path for each of thousands of modules takes longer than an epoch
    files = (getattr(module, "__file__", None) or "" for module in sys.modules.copy().values())
    return sorted({Path(file) for file in files if file.startswith(ours) and file.endswith(".py")})


def package_digests() -> dict[str, str]:
    """Returns the digest of each package of pipeline/, and of vae_ext."""
    packages = [folder.parent for folder in sorted(PIPELINE.glob("*/__init__.py"))]
    return {folder.name: _digest(folder) for folder in (*packages, VAE_EXT)}


def _digest(folder: Path) -> str:
    """Returns a SHA-256 over the names and contents of a folder's sources."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    run(lambda: write_json(CODE, package_digests()), __doc__)
