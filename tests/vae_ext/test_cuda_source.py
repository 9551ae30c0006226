"""The CUDA source compiles with warnings as errors wherever there is an nvcc, and what calls it anywhere; no GPU is needed."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

from vae_ext.source import ROOT

NVCC = shutil.which("nvcc")


@pytest.mark.skipif(NVCC is None, reason="no nvcc on PATH")
def test_cuda_source_compiles_without_a_warning(tmp_path: Path) -> None:
    includes = [flag for path in include_paths() for flag in ("-I", path)]
    command = [str(NVCC), "-std=c++17", "-O3", "--fmad=false", "-arch=sm_90", "-Werror", "all-warnings", *includes]
    run = subprocess.run(
        [*command, "-c", str(ROOT / "csrc" / "cuda.cu"), "-o", str(tmp_path / "cuda.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_bindings_with_cuda_compile_without_a_warning(standard: str) -> None:
    includes = [flag for path in [*include_paths(), sysconfig.get_path("include")] for flag in ("-isystem", path)]
    defines = ['-DVAE_EXT_WITH_CUDA="13.0"', "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", '-DVAE_EXT_DIGEST="0"']
    command = ["g++", f"-std={standard}", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *defines, *includes]
    run = subprocess.run([*command, str(ROOT / "csrc" / "bindings.cpp")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
