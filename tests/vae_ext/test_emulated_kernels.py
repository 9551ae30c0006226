"""The CUDA kernels emulated on the CPU: the CPU kernels' bits, no access out of bounds, no race; injected faults are found."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.emulated.build import Build, build_cpu, build_cuda, build_main, compile_objects, link
from tests.standalone import sanitize
from vae_ext.source import ROOT

KERNELS = 2 * (2 * 4 * 2 + 3 * 4 + 3 * 4 + 1)  # with and without vectors: see test_cuda_source.py
EVERY = 29  # one case in so many; all of them: make sanitize


class Compiled:
    """Compiled once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cpu = build_cpu(folder)
        self.main = functools.cache(functools.partial(build_main, folder))
        self.cuda = functools.cache(functools.partial(build_cuda, folder))

    def program(self, build: Build) -> Path:
        """The program that checks all kernels."""
        return link([*self.cuda(build), *self.main(build), *self.cpu], self.folder / f"check.{build.name}", build)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(tmp_path_factory.mktemp("compiled"))


def run(program: Path, *arguments: int) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_emulated_kernels_give_the_same_bits_as_the_cpu(compiled: Compiled) -> None:
    done = run(compiled.program(Build.PLAIN), EVERY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f" {KERNELS} kernels," in done.stdout


@pytest.mark.long
def test_emulated_kernels_pass_the_sanitizers(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make sanitize` with some of its cases, and without the CPU kernels, which take a minute to compile with sanitizers."""
    monkeypatch.setattr(sanitize, "build_kernels", lambda folder: Path("/bin/true"))
    monkeypatch.setattr(sanitize, "build_cpu", lambda folder: compiled.cpu)
    monkeypatch.setattr(sanitize, "build_emulated", lambda folder, build, cpu: compiled.program(build))
    assert sanitize.main(["--every", "199"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no error"
    assert sum("differences" in line for line in lines) == len(Build) * sanitize.SHARDS


class Fault(NamedTuple):
    """A change of the kernels that must be detected, and the expected report."""

    claim: str
    file: str
    old: str
    new: str
    found: str  # part of the output
    build: Build = Build.PLAIN


FAULTS = [
    Fault(
        "no barrier before shared memory is written again",
        "cuda/vec4.cuh",
        "    __syncthreads();  // the previous sum has been read\n",
        "",
        "data race",
        Build.RACES,
    ),
    Fault(
        "no barrier between the halves",
        "cuda/vec4.cuh",
        "      __syncthreads();\n      if (lane < width)",
        "      if (lane < width)",
        "data race",
        Build.RACES,
    ),
    Fault(
        "threads without elements do not sum",
        "cuda/gaussian.cuh",
        "if (output == Output::kKl || !(of_sample || sums_kl)) continue;",
        "if (output == Output::kKl || !(of_sample || sums_kl) || blocks == 0) continue;",
        "every lane of its mask reaches",
    ),
    Fault(
        "threads past the last row do not sum",
        "cuda/bernoulli.cu",
        "    const int64_t image = row % call.images;\n    T partial = 0;",
        "    const int64_t image = row % call.images;\n    if (row >= call.rows) continue;\n    T partial = 0;",
        "every lane of its mask reaches",
    ),
    Fault(
        "a store one element too far",
        "cuda/vec4.cuh",
        "if (first + j < dim) row[first + j]",
        "if (first + j <= dim) row[first + j]",
        "a write out of bounds",
    ),
    Fault(
        "a load one element too far",
        "cuda/vec4.cuh",
        "first + j < dim ? static_cast<T>(row[first + j])",
        "first + j <= dim ? static_cast<T>(row[first + j])",
        "AddressSanitizer",
        Build.MEMORY,
    ),
    Fault(
        "sums of rows that are not there",
        "cuda/gaussian.cuh",
        "if (lane == 0 && row < call.rows) sums[",
        "if (lane == 0) sums[",
        "forward, kl",
    ),
    Fault(
        "a mask of half a warp",
        "cuda/vec4.cuh",
        "0xffffffffu",
        "0x0000ffffu",
        "a shuffle of a lane outside its mask",
    ),
    Fault(
        "vectors into an unaligned z",
        "cuda/gaussian.cuh",
        " && aligned<Z>(c.z, c.dim) &&",
        " &&",
        "misaligned address",
        Build.MEMORY,
    ),
    Fault(
        "elements past a row's end in the log-ratio",
        "cuda/gaussian.cuh",
        "4 * static_cast<int64_t>(block) + j < in.dim ? soft.logvar : T(0)",
        "soft.logvar",
        "forward, kl",
    ),
    Fault(
        "no row offset in the backward pass",
        "cuda/gaussian.cuh",
        "  const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);\n  Upstream<T> sum{};",
        "  const uint32_t noise_row = static_cast<uint32_t>(row);\n  Upstream<T> sum{};",
        "backward of z, gradient of logvar",
    ),
    Fault(
        "four neighbours summed in another order",
        "cuda/vec4.cuh",
        "(vec.at[0] + vec.at[1]) + (vec.at[2] + vec.at[3])",
        "((vec.at[0] + vec.at[1]) + vec.at[2]) + vec.at[3]",
        "other bits than the CPU's",
    ),
    Fault(
        "rows done twice and never",
        "cuda/grid.h",
        "return row_group * (kThreads >> log_lanes) + (thread >> log_lanes);",
        "return (row_group & 1) * (kThreads >> log_lanes) + (thread >> log_lanes);",
        "not written",
    ),
    Fault(
        "samples left out where thread blocks share them",
        "cuda/gaussian.cuh",
        "of_sample ? call.samples : gridDim.y;",
        "of_sample ? call.samples : gridDim.y + 1;",
        "forward, z",
    ),
    Fault(
        "only as many row groups as thread blocks",
        "cuda/gaussian.cu",
        "    const uint32_t blocks = grid.blocks_of(row);\n",
        "    if (row_group >= gridDim.x) break;\n    const uint32_t blocks = grid.blocks_of(row);\n",
        "not written",
    ),
    Fault(
        "chunks of a prior's gradient that overlap",
        "cuda/prior.cu",
        "const int64_t first = row * kRowsOfChunk;",
        "const int64_t first = row * (kRowsOfChunk - 1);",
        "gradient of the prior's",
    ),
    Fault(
        "0 times an infinite mu",
        "gaussian.h",
        "return {grad_z, T(0.5)",
        "return {grad_z + T(0) * mu, T(0.5)",
        "backward of z, gradient of mu",
    ),
]


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.claim.replace(" ", "-"))
def test_faults_in_emulated_kernels_are_detected(fault: Fault, compiled: Compiled, tmp_path: Path) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    source = (csrc / fault.file).read_text(encoding="utf-8")
    assert fault.old in source
    (csrc / fault.file).write_text(source.replace(fault.old, fault.new), encoding="utf-8")
    # To compile within a second: only one type, and only the kernels of one file.
    launch = csrc / "cuda" / "launch.cuh"
    lines = launch.read_text(encoding="utf-8").splitlines()
    kept = "\n".join(line for line in lines if "case Dtype::k" not in line or "kFloat32" in line)
    launch.write_text(kept.replace("  switch (dtype) {", "  switch (dtype) {\n    default: return;"), encoding="utf-8")
    unit = next((f"{name}.cu" for name in ("bernoulli", "prior") if name in fault.file), "gaussian.cu")
    faulty = compile_objects([csrc / "cuda" / unit], tmp_path, ".o", *fault.build.value, csrc=csrc)
    others = [path for path in compiled.cuda(fault.build) if not path.name.startswith(Path(unit).stem)]
    done = run(link([*faulty, *others, *compiled.main(fault.build), *compiled.cpu], tmp_path / "check", fault.build), 23, 0, 1)
    assert done.returncode != 0
    assert fault.found in done.stdout + done.stderr
