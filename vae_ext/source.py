"""The sources of the compiled module, their digest, and whether CUDA is included.

setup.py runs this file before anything can be imported: only the standard library at the top.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version as installed_version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = b"vae_ext source digest "


def is_checkout() -> bool:
    """Whether this package is in a source tree, beside the sources of its compiled module."""
    return (ROOT / "csrc" / "torch" / "module.cpp").is_file() and (ROOT / "setup.py").is_file()


def package_version() -> str:
    """Returns the version: in a checkout that of its pyproject.toml, elsewhere that of the installed package."""
    if is_checkout():
        project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["version"]
    return installed_version("vae_ext")


def digested_files() -> list[Path]:
    """Returns all files that determine the compiled module: setup.py and csrc/."""
    return [ROOT / "setup.py", *sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())]


def source_digest() -> str:
    """Returns the sha256 of the names and contents of :func:`digested_files`."""
    digest = hashlib.sha256()
    for path in digested_files():
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def sources_in(folder: str) -> list[Path]:
    """Returns the translation units in a folder of csrc/: "torch", "cpu" or "cuda"."""
    return sorted(path for path in (ROOT / "csrc" / folder).iterdir() if path.suffix in (".cpp", ".cu"))


def cuda_home() -> Path | None:
    """Returns the folder of the CUDA toolkit.

    Searches ``CUDA_HOME`` and ``CUDA_PATH``; the nvcc on PATH; /usr/local/cuda; and NVIDIA's pip packages, in nvidia/cu13
    beside torch.
    """
    configured = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if configured:
        return Path(configured)
    on_path = shutil.which("nvcc")
    found = [Path(on_path).resolve().parent.parent] if on_path else []
    found += [Path("/usr/local/cuda")]
    found += [home for entry in sys.path for home in sorted(Path(entry or ".").glob("nvidia/cu*"), reverse=True)]
    # nvcc on PATH may be a script that calls another one: the toolkit is where the headers are.
    return next((home for home in found if nvcc_of(home).is_file() and (home / "include" / "cuda_runtime.h").is_file()), None)


def nvcc_of(home: Path) -> Path:
    return home / "bin" / "nvcc"


@functools.cache
def why_no_cuda() -> str | None:
    """Returns what prevents a build with CUDA kernels, or None. A GPU is not needed: images may be built without one."""
    import torch

    if not torch.version.cuda:
        return f"torch {torch.__version__} is not a CUDA build"
    home = cuda_home()
    if home is None or not nvcc_of(home).is_file():
        where = f"in {nvcc_of(home).parent}" if home else "in CUDA_HOME, on PATH, in /usr/local/cuda or from pip"
        return f"there is no nvcc {where}"
    output = subprocess.run([nvcc_of(home), "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.(\d+)", output)
    if release is None:
        return f"{nvcc_of(home)} --version does not name its release"
    if release.group(1) != torch.version.cuda.split(".")[0]:
        version = f"{release.group(1)}.{release.group(2)}"
        return f"{nvcc_of(home)} is of CUDA {version} and torch of CUDA {torch.version.cuda}: the major versions must agree"
    return None


def wants_cuda() -> bool:
    """Whether a build of the module should include CUDA kernels.

    ``VAE_EXT_CUDA``: auto: if possible; 0: no; 1: yes, or a ValueError that says what is missing.
    """
    requested = os.environ.get("VAE_EXT_CUDA") or "auto"
    if requested not in ("auto", "0", "1"):
        raise ValueError(f"VAE_EXT_CUDA: expected auto, 0 or 1, got {requested!r}")
    missing = None if requested == "0" else why_no_cuda()
    if requested == "1" and missing is not None:
        raise ValueError(f"VAE_EXT_CUDA=1, but {missing}")
    return requested != "0" and missing is None


def checksum_file(module: Path) -> Path:
    """Returns the path of a module's sha256, in the format of ``sha256sum --check``."""
    return module.with_name(f"{module.name}.sha256")


def write_checksum(module: Path) -> None:
    """Records the sha256 of a module, so that :func:`module_digest` detects a damaged one."""
    checksum_file(module).write_text(f"{hashlib.sha256(module.read_bytes()).hexdigest()}  {module.name}\n", encoding="utf-8")


def module_digest(module: Path) -> str | None:
    """Returns the digest of its sources that a compiled module contains; None for a missing or damaged module.

    Reads the file, since loading a module registers its operators, and a damaged one may crash the process.
    """
    try:
        content, recorded = module.read_bytes(), checksum_file(module).read_bytes()
    except OSError:
        return None
    if recorded[:64] != hashlib.sha256(content).hexdigest().encode():
        return None
    found = re.search(re.escape(MARK) + rb"([0-9a-f]{64})", content)
    return found.group(1).decode() if found else None
