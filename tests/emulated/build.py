"""Builds the check of the emulated CUDA kernels: main.cpp, csrc/cuda/*.cu as C++, and the CPU kernels to compare with."""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Sequence
from pathlib import Path

from torch.utils.cpp_extension import include_paths

from setup import HOST_FLAGS
from vae_ext.source import ROOT, sources_in

HERE = Path(__file__).parent
CSRC = ROOT / "csrc"
# Compiled like the module, with all warnings as errors.
FLAGS = ["-std=c++17", *HOST_FLAGS, "-Wextra", "-Werror", *(f"-isystem{path}" for path in include_paths())]


class Build(enum.Enum):
    """Instrumentation of the emulated kernels, in addition to the comparison with the CPU."""

    PLAIN = ()
    # Out-of-bounds accesses and misaligned vectors, as compute-sanitizer's memcheck finds them. -g1 suffices to report lines.
    MEMORY = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    # Unordered accesses of two threads of a block, as compute-sanitizer's racecheck finds them.
    RACES = ("-g1", "-fsanitize=thread")


def run_compiler(*command: str | Path) -> None:
    """Runs a compiler; raises SystemExit with its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")


def compile_objects(sources: Sequence[Path], folder: Path, suffix: str, *flags: str, csrc: Path = CSRC) -> list[Path]:
    """Compiles each source separately, optimised only as far as takes seconds."""
    objects = [folder / f"{source.stem}{suffix}" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        own = ("-O1", "-Wno-unknown-pragmas", *flags, f"-I{csrc}", f"-I{HERE}")  # #pragma unroll
        run_compiler("g++", *FLAGS, *own, "-c", "-x", "c++", source, "-o", target)
    return objects


def build_cpu(folder: Path) -> list[Path]:
    """Compiles the CPU kernels, which every build compares with; never instrumented."""
    return compile_objects(sources_in("cpu"), folder, ".cpu.o")


def build_main(folder: Path, build: Build) -> list[Path]:
    return compile_objects([HERE / "main.cpp"], folder, f".{build.name}.o", *build.value)


def build_cuda(folder: Path, build: Build) -> list[Path]:
    return compile_objects(sources_in("cuda"), folder, f".cuda.{build.name}.o", *build.value)


def link(objects: Sequence[Path], program: Path, build: Build) -> Path:
    run_compiler("g++", *build.value, *objects, "-o", program)
    return program
