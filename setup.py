"""Builds vae_ext and its compiled module; defines the sources and the compiler flags.

Environment: VAE_EXT_CUDA=auto|0|1 (auto: if there is an nvcc and torch is a CUDA build; 1: required),
TORCH_CUDA_ARCH_LIST, MAX_JOBS, CXX.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import setuptools
from setuptools import Extension, setup

if int(setuptools.__version__.partition(".")[0]) < 77:  # older versions report an invalid license in pyproject.toml
    sys.exit(f"error: setuptools: expected 77 or newer, got {setuptools.__version__}; pip install --upgrade setuptools")

ROOT = Path(__file__).resolve().parent
SOURCE = runpy.run_path(str(ROOT / "vae_ext" / "source.py"))

# The oldest PyTorch whose stable ABI is used, as 0xMMmm followed by zeros.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
HOST_FLAGS = [
    "-O3",
    # A fused multiply-add rounds once instead of twice: with it, results would differ between instruction sets.
    "-ffp-contract=off",
    # These two allow loops with sqrt and comparisons to be vectorised; neither changes results.
    "-fno-math-errno",
    "-fno-trapping-math",
    # Alternates between independent chains of arithmetic (for_each_element in csrc/cpu/tile.h); gcc omits it on x86.
    "-fschedule-insns",
    "-Wno-ignored-optimization-argument",  # clang schedules by default, and warns that it ignores -fschedule-insns
    "-fvisibility=hidden",
    # Omits the debug information that Python's own flags request, which is most of the file.
    "-g0",
    "-Wall",
]
DEVICE_FLAGS = ["-O3", "--fmad=false"]


def find_torch() -> bool:
    """Whether torch can be imported, also from the target environment outside of pip's build isolation.

    The module should be built with the torch that it will run with, not with one that pip downloads for the build.
    """
    if importlib.util.find_spec("torch") is None:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
        command = [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"]
        outside = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        sys.path += [entry for entry in outside.splitlines() if entry not in sys.path]
    return importlib.util.find_spec("torch") is not None


def runtime_folder(home: Path) -> list[str]:
    """Returns a folder where -lcudart finds the CUDA runtime, if needed: pip's packages have it only under its full name."""
    folders = [home / name for name in ("lib64", "lib")]
    named = [library for folder in folders for library in sorted(folder.glob("libcudart.so.*"))]
    if any((folder / "libcudart.so").exists() for folder in folders) or not named:
        return []
    link = Path(tempfile.mkdtemp()) / "libcudart.so"
    link.symlink_to(named[0])
    return [str(link.parent)]


def extension() -> Extension:
    try:
        cuda = SOURCE["wants_cuda"]()
    except ValueError as error:
        sys.exit(f"error: {error}")
    home = SOURCE["cuda_home"]() if cuda else None
    if home:
        os.environ["CUDA_HOME"] = str(home)  # torch reads it in the import below

    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    # One translation unit per operator and per instruction set, so that they compile in parallel.
    folders = ["torch", "cpu", *(["cuda"] if home else [])]
    sources = [str(path.relative_to(ROOT)) for folder in folders for path in SOURCE["sources_in"](folder)]
    host = [*HOST_FLAGS, TORCH_TARGET]
    # torch bundles pybind11's headers, in case the package is missing.
    pybind11 = importlib.util.find_spec("pybind11")
    include_dirs = [str(ROOT / "csrc")]
    include_dirs += [str(Path(pybind11.origin).parent / "include")] if pybind11 and pybind11.origin else []
    device = [*DEVICE_FLAGS, TORCH_TARGET, "-DUSE_CUDA"]
    library_dirs: list[str] = []
    if home:
        library_dirs = runtime_folder(home)
        # From Turing to Hopper, and PTX for newer ones; not this machine's GPU, since an image may be built elsewhere.
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;9.0+PTX")
        host += [f'-DVAE_EXT_WITH_CUDA="{torch.version.cuda}"', "-DUSE_CUDA"]
        kind = CUDAExtension
    else:
        kind = CppExtension
    flags = {"cxx": host, "nvcc": device}
    module: Extension = kind(
        "vae_ext._C",
        sources,
        depends=[str(path.relative_to(ROOT)) for path in SOURCE["digested_files"]()],
        include_dirs=include_dirs,
        library_dirs=library_dirs,
        extra_compile_args=flags,
    )
    return module


def compiler() -> str | None:
    asked = os.environ.get("CXX")
    if asked and shutil.which(asked.split()[0]) is None:
        sys.exit(f"error: CXX={asked}: there is no such compiler")
    return asked or shutil.which("c++") or shutil.which("g++")


def main() -> None:
    if not find_torch():
        # pip asks for build requirements; without torch in the environment, it must be downloaded.
        setup(setup_requires=["torch>=2.10"])
        return
    if compiler() is None:
        print("vae_ext: no C++ compiler found, installing the pure-PyTorch reference alone", file=sys.stderr)
        setup()
        return
    module = extension()  # before the next line: torch looks for CUDA once, when that is imported
    from torch.utils.cpp_extension import BuildExtension

    class BuildModule(BuildExtension):
        """Embeds the digest of the sources, and records the module's checksum: a module is loaded only if both match."""

        def run(self) -> None:
            # In a header that one file includes: on the command line, an edit would recompile every file.
            header = Path(self.build_temp).resolve() / "digest.h"
            line = f'#define VAE_EXT_DIGEST "{SOURCE["source_digest"]()}"\n'
            header.parent.mkdir(parents=True, exist_ok=True)
            if not header.is_file() or header.read_text(encoding="utf-8") != line:
                header.write_text(line, encoding="utf-8")
            module.include_dirs.append(str(header.parent))
            super().run()
            SOURCE["write_checksum"](Path(self.get_ext_fullpath(module.name)))

    setup(ext_modules=[module], cmdclass={"build_ext": BuildModule})


if __name__ == "__main__":
    main()
