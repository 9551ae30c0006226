"""Checks of the CUDA kernels without a GPU: they compile, spill nothing, access 16 bytes at once, and miss no element."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from setup import DEVICE_FLAGS, TORCH_TARGET
from tests.emulated.build import CSRC, FLAGS, run_compiler
from tests.programs import script
from tests.vae_ext.probe import run_in_new_process
from vae_ext.source import ROOT, cuda_home, nvcc_of, sources_in, wants_cuda, why_no_cuda

ON_PATH = shutil.which("nvcc")
FROM_PIP = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "nvcc"
NVCC = str(FROM_PIP) if FROM_PIP.is_file() else ON_PATH
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
USUAL = "sm_90"  # newer ones get its PTX
FROM_PTX = "sm_100"


class Built(NamedTuple):
    """Results of a compilation: the assembler's report on the kernels, their PTX and, for ``USUAL``, object files to link."""

    said: str
    ptx: dict[str, str]
    linkable: dict[str, bytes]


def compile_cuda(nvcc: str, sources: Iterable[Path], folder: Path, *flags: str) -> str:
    """Compiles like setup.py, with warnings as errors, into object files in a folder; returns the compiler's output."""
    includes = [f"-I{path}" for path in (CSRC, *include_paths())]
    command = [nvcc, "-std=c++17", *DEVICE_FLAGS, "-Werror", "all-warnings", *includes, *flags]
    # An isolated environment: pip's nvcc must not find another toolkit's files.
    alone = {name: value for name, value in os.environ.items() if name not in ("CUDA_HOME", "CUDA_PATH")}
    commands = [[*command, str(path), "-o", str(folder / f"{path.stem}.o")] for path in sources]
    runs = [subprocess.Popen(c, env=alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    said = "".join(run.communicate()[0] for run in runs)
    assert all(run.returncode == 0 for run in runs), said
    return said


@functools.cache
def built_for(architecture: str) -> Built:
    if NVCC is None:
        pytest.skip("no nvcc on PATH or from pip")
    known = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    if architecture not in known:
        pytest.skip(f"this nvcc does not know {architecture}")
    flags = (f"-arch={architecture}", "-Xptxas", "-v")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if architecture == FROM_PTX:  # compiled by the driver, which has the same assembler
            for file, text in built_for(USUAL).ptx.items():
                (folder / file).write_text(text, encoding="utf-8")
            return Built(compile_cuda(NVCC, sorted(folder.iterdir()), folder, *flags, "-cubin"), {}, {})
        output = ("-Xcompiler", "-fPIC", "-c") if architecture == USUAL else ("-cubin",)
        said = compile_cuda(NVCC, sources_in("cuda"), folder, *flags, "--keep", "--keep-dir", name, *output)
        ptx = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.ptx")}
        return Built(said, ptx, {path.name: path.read_bytes() for path in folder.glob("*.o")})


# One in make test, the others in make test-all.
@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=[] if name == USUAL else pytest.mark.long) for name in ARCHITECTURES]
)
def test_no_kernel_spills_registers_or_uses_local_memory(architecture: str) -> None:
    said = built_for(architecture).said
    usage = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    # With and without vectors: forward and backward of four types, default and not; log_prob's three of four; with a prior
    # forward, backward and sum; take_pixels.
    assert len(usage) == 2 * (2 * 4 * 2 + 3 * 4 + 3 * 4 + 1)
    assert set(usage) == {("0", "0", "0")}


@pytest.fixture
def kernels() -> dict[str, str]:
    """The kernels' PTX by mangled name."""
    text = "".join(built_for(USUAL).ptx.values())
    return dict(re.findall(r"\.entry (\S+?)\((.*?)(?=\.entry|\Z)", text, flags=re.DOTALL))


# With vectors, float32 and the default variant, in compilers' spelling; the numbers of vectors read and written, and of single
# values at most.
@pytest.mark.parametrize(
    ("name", "element", "reads", "writes", "singles"),
    [
        ("14forward_kernelIfLb1ELb1E", "[buf]32", 2, 1, 2),  # mu, logvar -> z; the key's step, kl
        ("15backward_kernelIfLb1ELb1E", "[buf]32", 3, 2, 3),  # mu, logvar, grad_z -> two gradients; the step, grad_kl
        ("16bernoulli_kernelIfLb1ENS_7LogProbE", "[buf]32", 1, 0, 1),  # logits; log_prob
        ("16bernoulli_kernelIfLb1ENS_15LogProbBackwardE", "[buf]32", 1, 1, 1),  # logits -> their gradient; grad
        ("16bernoulli_kernelIfLb1ENS_18LogProbAndGradientE", "[buf]32", 1, 1, 1),  # logits -> their gradient; log_prob
        ("16bernoulli_kernelIfLb1ENS_7LogProbE", "[bu]8", 1, 0, 0),  # pixels
        ("16bernoulli_kernelIfLb1ENS_15LogProbBackwardE", "[bu]8", 1, 0, 0),
        ("16bernoulli_kernelIfLb1ENS_18LogProbAndGradientE", "[bu]8", 1, 0, 0),
        ("18take_pixels_kernelILb1E", "[bu]8", 1, 1, 0),
        ("18take_pixels_kernelILb1E", "[buf]32", 0, 1, 1),  # x; the key's step
    ],
)
def test_four_elements_are_accessed_at_once(
    kernels: dict[str, str], name: str, element: str, reads: int, writes: int, singles: int
) -> None:
    (body,) = [body for mangled, body in kernels.items() if name in mangled]
    assert len(re.findall(rf"ld\.global\.v4\.{element}", body)) == reads
    assert len(re.findall(rf"st\.global\.v4\.{element}", body)) == writes
    assert len(re.findall(rf"(?:ld|st)\.global\.{element}", body)) <= singles


@pytest.mark.long
@pytest.mark.skipif(not FROM_PIP.is_file(), reason="NVIDIA's packages for pip are not installed")
def test_pips_toolkit_alone_compiles_and_links_the_kernels(tmp_path: Path) -> None:
    for name, content in built_for(USUAL).linkable.items():  # by pip's nvcc, which takes precedence
        (tmp_path / name).write_bytes(content)
    objects = [str(path) for path in tmp_path.iterdir()]
    # The runtime has only its full name; setup.py adds the short one.
    (runtime,) = FROM_PIP.parents[1].glob("lib/libcudart.so.*")
    (tmp_path / "libcudart.so").symlink_to(runtime)
    link = ["g++", "-shared", "-Wl,-z,defs", *objects, f"-L{tmp_path}", "-lcudart", "-o", str(tmp_path / "cuda.so")]
    run = subprocess.run(link, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_element_belongs_to_one_thread(tmp_path: Path) -> None:
    program = tmp_path / "grid"
    run_compiler("g++", *FLAGS, f"-I{CSRC}", ROOT / "tests" / "standalone" / "grid.cpp", "-o", program)
    run = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("standard", ["c++17", pytest.param("c++20", marks=pytest.mark.long)])
def test_tensor_code_with_cuda_compiles_without_warnings(standard: str, tmp_path: Path) -> None:
    (tmp_path / "digest.h").write_text('#define VAE_EXT_DIGEST "0"\n', encoding="utf-8")
    includes = [f"-isystem{sysconfig.get_path('include')}", f"-I{CSRC}", f"-I{tmp_path}"]
    defines = [TORCH_TARGET, '-DVAE_EXT_WITH_CUDA="13.0"', "-DUSE_CUDA"]
    run_compiler("g++", *FLAGS, f"-std={standard}", "-fsyntax-only", *defines, *includes, *sources_in("torch"))


def fake_toolkit(folder: Path, release: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    script(nvcc_of(folder), f"echo 'Cuda compilation tools, release {release}, V{release}.0'")
    (folder / "include").mkdir()
    (folder / "include" / "cuda_runtime.h").touch()
    return folder


def test_the_reason_for_a_build_without_cuda_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    asked_anew = why_no_cuda.__wrapped__
    monkeypatch.setattr("vae_ext.source.why_no_cuda", asked_anew)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nothing"))
    assert asked_anew() == f"there is no nvcc in {tmp_path / 'nothing' / 'bin'}"

    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "old", "12.4")))
    message = "old/bin/nvcc is of CUDA 12.4 and torch of CUDA 13.0: the major versions must agree"
    assert str(asked_anew()).endswith(message)
    monkeypatch.setenv("VAE_EXT_CUDA", "1")
    with pytest.raises(ValueError, match=f"VAE_EXT_CUDA=1, but .*{message}"):
        wants_cuda()
    monkeypatch.setenv("VAE_EXT_CUDA", "auto")
    assert not wants_cuda()

    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "new", "13.2")))
    assert asked_anew() is None
    assert wants_cuda()


@pytest.mark.skipif(not FROM_PIP.is_file(), reason="NVIDIA's packages for pip are not installed")
def test_pips_toolkit_is_found_if_there_is_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = FROM_PIP.parents[1] if not nvcc_of(Path("/usr/local/cuda")).is_file() else Path("/usr/local/cuda")
    assert cuda_home() == expected


def test_a_script_that_calls_another_nvcc_is_not_mistaken_for_the_toolkit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    toolkit = fake_toolkit(tmp_path / "toolkit", "13.0")
    monkeypatch.setenv("PATH", str(toolkit / "bin"))
    assert cuda_home() == toolkit.resolve()
    (toolkit / "include" / "cuda_runtime.h").unlink()
    assert cuda_home() != toolkit.resolve()


def test_setup_passes_the_toolkit_to_torch_if_the_nvcc_on_path_is_a_script(tmp_path: Path) -> None:
    """By default torch takes the script's folder for CUDA's, and linking fails with: cannot find -lcudart."""
    fake_toolkit(tmp_path / "site" / "nvidia" / "cu13", "13.0")  # found last, on a machine without another one
    folder = tmp_path / "script" / "bin"
    folder.mkdir(parents=True)
    script(folder / "nvcc", "exec /somewhere/else/nvcc")
    code = f"""
import os, runpy, setuptools, sys, torch
for name in ("CUDA_HOME", "CUDA_PATH", "VAE_EXT_CUDA", "CXX"):
    os.environ.pop(name, None)
os.environ["PATH"] = {str(folder)!r} + os.pathsep + os.environ["PATH"]
sys.path.append({str(tmp_path / "site")!r})
sys.argv = ["setup.py", "build_ext"]
torch.version.cuda, torch.cuda._is_compiled, torch.cuda.is_available = "13.0", lambda: True, lambda: False
called = {{}}
setuptools.setup = called.update
runpy.run_path({str(ROOT / "setup.py")!r}, run_name="__main__")
(module,) = called["ext_modules"]
print(torch.utils.cpp_extension.CUDA_HOME)
print([source for source in module.sources if source.endswith(".cu")])
"""
    run = run_in_new_process(code, tmp_path, {})
    assert run.returncode == 0, run.stderr
    home, sources = run.stdout.splitlines()
    assert home != str(tmp_path / "script")
    assert (Path(home) / "include" / "cuda_runtime.h").is_file()
    assert sources == str([str(path.relative_to(ROOT)) for path in sources_in("cuda")])
