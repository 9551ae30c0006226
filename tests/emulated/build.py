"""Builds the check of the emulated CUDA kernels: main.cpp, csrc/cuda/*.cu as C++, and the CPU's kernels to stand beside."""

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
# As the module is compiled, with every warning an error.
FLAGS = ["-std=c++17", *HOST_FLAGS, "-Wextra", "-Werror", *(f"-isystem{path}" for path in include_paths())]


class Build(enum.Enum):
    """What watches the kernels as they run, beside the comparison with the CPU's."""

    PLAIN = ()
    # Accesses out of bounds and misaligned vectors, as compute-sanitizer's memcheck finds them. -g1: to report lines is enough.
    MEMORY = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    # Accesses of two threads of a block that no barrier orders, as racecheck finds them.
    RACES = ("-g1", "-fsanitize=thread")


def run_compiler(*command: str | Path) -> None:
    """A SystemExit with what the compiler says if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")


def compile_objects(sources: Sequence[Path], folder: Path, suffix: str, *flags: str, csrc: Path = CSRC) -> list[Path]:
    """A translation unit each, one after the other, optimised no more than takes seconds."""
    objects = [folder / f"{source.stem}{suffix}" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        own = ("-O1", "-Wno-unknown-pragmas", *flags, f"-I{csrc}", f"-I{HERE}")  # #pragma unroll
        run_compiler("g++", *FLAGS, *own, "-c", "-x", "c++", source, "-o", target)
    return objects


def build_cpu(folder: Path) -> list[Path]:
    """The CPU's kernels, which every build stands beside; never instrumented."""
    return compile_objects(sources_in("cpu"), folder, ".cpu.o")


def build_main(folder: Path, build: Build) -> list[Path]:
    return compile_objects([HERE / "main.cpp"], folder, f".{build.name}.o", *build.value)


def build_cuda(folder: Path, build: Build) -> list[Path]:
    return compile_objects(sources_in("cuda"), folder, f".cuda.{build.name}.o", *build.value)


def link(objects: Sequence[Path], program: Path, build: Build) -> Path:
    run_compiler("g++", *build.value, *objects, "-o", program)
    return program
