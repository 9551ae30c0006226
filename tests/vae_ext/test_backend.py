"""Which compiled module is loaded: the one of the tree, or the reference with a reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.cpp_extension import is_ninja_available

import vae_ext
from tests.forked import run_code, run_forked
from tests.programs import outside_make, quick_compiler, script
from tests.vae_ext.probe import run_in_new_process
from vae_ext.source import ROOT, checksum_file, module_digest, source_digest, sources_in

# Prints one line per question of the tests: the backend, and a number that depends on the noise.
PROBE = """
import torch, vae_ext
print(vae_ext.backend("cpu"))
key = vae_ext.noise_key(3, 4)
print(vae_ext.reparam_kl(torch.zeros(50, 20), torch.zeros(50, 20), key)[0].double().sum().item().hex())
print(vae_ext.backend_report())
print(vae_ext.__version__)
"""


def probe(environment: dict[str, str] | None = None, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a few lines in a new process, with the folder's vae_ext and these environment variables."""
    return run_in_new_process(PROBE, folder, environment or {})


def copy_tree(to: Path) -> Path:
    for name in ("csrc", "vae_ext"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.sha256"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)
    return to


def run_setup(tree: Path, *arguments: str, **environment: str) -> None:
    """Runs `python setup.py` in a process that has imported torch."""
    code = f"import runpy, sys; sys.argv[1:] = {arguments}; runpy.run_path('setup.py', run_name='__main__')"
    done = run_forked(run_code, code, folder=tree, environment={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def quick(module: ModuleType, tmp_path: Path) -> str:
    """A compiler that instantly links the session's module of these sources."""
    return quick_compiler(tmp_path, Path(module.__file__ or ""))


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment without a compiler and without compiled modules."""
    return {"PATH": str(tmp_path / "empty"), "CXX": "", "VAE_EXT_CACHE_DIR": str(tmp_path / "cache")}


def test_the_loaded_module_has_the_digest_of_the_sources(module: ModuleType) -> None:
    assert module.build_info()["digest"] == source_digest()
    assert module.__file__ is not None
    assert module_digest(Path(module.__file__)) == source_digest()
    assert vae_ext.backend("cpu") == "cpu"
    assert source_digest() in vae_ext.backend_report()


def test_neither_the_import_nor_a_call_imports_torch_dynamo() -> None:
    """torch._dynamo takes a second to import, which ``import torch`` does not do: nor may registering the operators."""
    imported = "print('torch._dynamo' in sys.modules)\n"
    run = run_in_new_process(f"import sys, torch\n{imported}{PROBE}{imported}", ROOT, {})
    first, *_, last = run.stdout.splitlines()
    assert (first, last) == ("False", "False"), run.stderr


def test_an_edited_kernel_is_rebuilt_and_a_stale_module_is_not_loaded(module: ModuleType, tmp_path: Path) -> None:
    # The compiled code need not be fast.
    compiler = script(tmp_path / "c++", f'exec {shutil.which("c++")} "$@" -O0')
    tree, own_cache = copy_tree(tmp_path / "tree"), {"VAE_EXT_CACHE_DIR": str(tmp_path / "cache"), "CXX": compiler}
    assert module.__file__ is not None
    for path in (Path(module.__file__), checksum_file(Path(module.__file__))):
        shutil.copy(path, tree / "vae_ext")
    assert "built in the tree" in probe(folder=tree).stdout

    # Twice the noise: the output shows which sources were built.
    kernel = tree / "csrc" / "gaussian.h"
    source = kernel.read_text(encoding="utf-8")
    kernel.write_text(source.replace("return mu + sigma * eps;", "return mu + T(2) * sigma * eps;"), encoding="utf-8")
    edited = probe(own_cache, tree)
    assert "built just now, into the cache" in edited.stdout
    once, twice = (float.fromhex(run.stdout.splitlines()[1]) for run in (probe(), edited))
    assert twice == pytest.approx(2 * once)
    assert "from the cache" in probe(own_cache, tree).stdout


def test_without_a_compiler_the_reference_is_used_with_one_warning_and_the_same_noise(no_compiler: dict[str, str]) -> None:
    fallback, kernel = probe(no_compiler), probe()
    assert fallback.returncode == 0, fallback.stderr
    assert fallback.stdout.splitlines()[0] == "reference"
    assert kernel.stdout.splitlines()[0] == "cpu"
    assert fallback.stdout.splitlines()[1] == kernel.stdout.splitlines()[1]
    assert fallback.stderr.count("RuntimeWarning") == 1
    assert "no C++ compiler" in fallback.stderr


def test_the_reference_can_be_forced(no_compiler: dict[str, str]) -> None:
    run = probe({"VAE_EXT_BACKEND": "reference", **no_compiler})
    assert run.stdout.splitlines()[0] == "reference"
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"VAE_EXT_BACKEND": "gpu"}, "VAE_EXT_BACKEND: expected one of reference, cpu, cuda, got 'gpu'"),
        ({"VAE_EXT_BACKEND": "cuda"}, "VAE_EXT_BACKEND=cuda, but the tensors are on cpu"),
        ({"VAE_EXT_CUDA": "yes"}, "BackendError: VAE_EXT_CUDA: expected auto, 0 or 1, got 'yes'"),
        ({"VAE_EXT_CPU_CAPABILITY": "mmx"}, "VAE_EXT_CPU_CAPABILITY: expected one that this machine runs (default"),
        pytest.param(
            {"VAE_EXT_CUDA": "1"},
            f"BackendError: VAE_EXT_CUDA=1, but torch {torch.__version__} is not a CUDA build",
            marks=pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is a CUDA build"),
        ),
    ],
)
def test_an_unavailable_forced_backend_is_an_error_that_names_it(environment: dict[str, str], message: str) -> None:
    run = probe(environment)
    assert run.returncode != 0
    assert message in run.stderr.splitlines()[-1]


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    run = probe({"CXX": "/nowhere/c++", "VAE_EXT_CACHE_DIR": str(tmp_path)})
    assert run.stdout.splitlines()[0] == "reference"
    assert "the build failed: error: CXX=/nowhere/c++: there is no such compiler (whole log: " in run.stderr


def test_each_instruction_set_can_be_forced(module: ModuleType) -> None:
    for name in module.cpu_capabilities():
        assert f"cpu: {name} " in probe({"VAE_EXT_CPU_CAPABILITY": name}).stdout


def test_a_build_in_the_tree_is_loaded_and_a_source_archive_is_complete(quick: str, tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    shutil.copy(ROOT / "MANIFEST.in", tree)
    run_setup(tree, "--quiet", "sdist", "build_ext", "--inplace", CXX=quick)
    assert "(built in the tree)" in probe(folder=tree).stdout
    (archive,) = (tree / "dist").iterdir()
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[-1] for name in tar.getnames()}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*")} <= names


@pytest.mark.long
@pytest.mark.skipif(not is_ninja_available(), reason="no ninja, which knows what a file includes")
def test_an_edited_header_recompiles_only_the_files_that_include_it(quick: str, tmp_path: Path) -> None:
    tree, log = copy_tree(tmp_path / "tree"), tmp_path / "compiled"
    # With -c, only as much as tells ninja which headers a file includes.
    compile_only = f"""*' -c '*) echo "$*" >> {log}; exec {shutil.which("c++")} "$@" -E ;;"""
    compiler = script(tmp_path / "logged", 'case " $* " in', compile_only, f'*) exec {quick} "$@" ;;', "esac")

    def compiled() -> set[str]:
        log.write_text("", encoding="utf-8")
        run_setup(tree, "--quiet", "build_ext", "--inplace", CXX=compiler, VAE_EXT_CUDA="0")
        return set(re.findall(r"csrc/(\S+\.cpp)", log.read_text(encoding="utf-8")))

    assert compiled() == {str(path.relative_to(ROOT / "csrc")) for name in ("cpu", "torch") for path in sources_in(name)}
    assert compiled() == set()
    header = tree / "csrc" / "cpu" / "tile.h"
    header.write_text(header.read_text(encoding="utf-8") + "// an edit\n", encoding="utf-8")
    assert compiled() == {"cpu/avx2.cpp", "cpu/avx512.cpp", "cpu/default.cpp", "torch/module.cpp"}  # module: has the digest


def test_pip_install_gives_a_working_module_outside_the_checkout(quick: str, tmp_path: Path) -> None:
    tree, target = copy_tree(tmp_path / "tree"), tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    env = {**os.environ, "CXX": quick}
    subprocess.run([*command, "--target", str(target), str(tree)], env=env, check=True)
    shutil.rmtree(tree)
    run = probe({"VAE_EXT_CACHE_DIR": str(tmp_path / "cache")}, target)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "cpu"
    assert "(installed)" in run.stdout
    here = probe().stdout.splitlines()
    assert run.stdout.splitlines()[1] == here[1]
    assert run.stdout.splitlines()[-1] == here[-1]  # the version, from the package's metadata and from pyproject.toml
    assert not (target / "csrc").exists()
    # How .github/workflows/wheels.yml tests a wheel.
    smoke = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]["test-command"]
    env = {**outside_make(), "PYTHONPATH": str(target)}
    assert "(installed)" in subprocess.check_output(smoke, cwd=tmp_path, env=env, shell=True, text=True)
