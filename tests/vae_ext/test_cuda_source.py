"""The CUDA source compiles, with warnings as errors, wherever there is an nvcc; a GPU is not needed."""

from __future__ import annotations

import shutil
import subprocess
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
