"""The CPU kernels on a processor that is not an x86: they compile for ARM and, under an emulator, give the same bits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

from vae_ext.source import ROOT

ARM_COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-I",
    str(ROOT / "csrc"),
]
EVERY = "11"  # case, of those in main.cpp: an emulator is slow


def build(compiler: str, program: Path, *flags: str) -> Path:
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    sources = [str(ROOT / "csrc" / "cpu.cpp"), str(ROOT / "tests" / "standalone" / "main.cpp")]
    command = [compiler, *FLAGS, *flags, *includes, *sources, "-o", str(program)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return program


@pytest.mark.skipif(ARM_COMPILER is None, reason="no aarch64-linux-gnu-g++ on PATH")
def test_arm_gives_the_bits_of_this_machine(tmp_path: Path) -> None:
    arm = build(str(ARM_COMPILER), tmp_path / "arm", "-static")
    if EMULATOR is None:
        pytest.skip("it compiles; no qemu-aarch64 on PATH to run it")
    here = build("g++", tmp_path / "here")
    ours, theirs = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in ([str(here), EVERY], [EMULATOR, str(arm), EVERY])
    )
    assert theirs.splitlines()[0] == ours.splitlines()[0]
