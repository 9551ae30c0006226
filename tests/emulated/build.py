"""Builds the check of the emulated CUDA kernels: main.cpp, csrc/cuda/*.cu as C++, and the CPU's kernels to stand beside."""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Sequence
from pathlib import Path

from torch.utils.cpp_extension import include_paths

from vae_ext.source import ROOT, sources_in

HERE = Path(__file__).parent
# Unoptimised enough to compile in seconds. What decides bits is as in setup.py.
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-unknown-pragmas"]  # #pragma unroll


class Build(enum.Enum):
    """What watches the kernels as they run, beside the comparison with the CPU's."""

    PLAIN = ()
    # Accesses out of bounds and misaligned vectors, as compute-sanitizer's memcheck finds them.
    MEMORY = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    # Accesses of two threads of a block that no barrier orders, as racecheck finds them.
    RACES = ("-g", "-fsanitize=thread")


def compile_objects(sources: Sequence[Path], folder: Path, suffix: str, *flags: str) -> list[Path]:
    """A translation unit each, one after the other; a SystemExit with what the compiler says if one fails."""
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    objects = [folder / f"{source.stem}{suffix}" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        _run(["g++", *FLAGS, *flags, "-I", str(HERE), *includes, "-c", "-x", "c++", str(source), "-o", str(target)])
    return objects


def build_cpu(folder: Path) -> list[Path]:
    """The CPU's kernels, which every build stands beside; never instrumented."""
    return compile_objects(sources_in("cpu"), folder, ".cpu.o", "-I", str(ROOT / "csrc"))


def build_main(folder: Path, build: Build) -> list[Path]:
    return compile_objects([HERE / "main.cpp"], folder, f".{build.name}.o", "-I", str(ROOT / "csrc"), *build.value)


def build_cuda(folder: Path, build: Build) -> list[Path]:
    return compile_objects(sources_in("cuda"), folder, f".cuda.{build.name}.o", "-I", str(ROOT / "csrc"), *build.value)


def link(objects: Sequence[Path], program: Path, build: Build) -> Path:
    _run(["g++", *build.value, *map(str, objects), "-o", str(program)])
    return program


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
