"""A small MNIST in its original format, and folders to run the stages in."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

from pipeline.runtime.main import run
from tests.pipeline.browser import launched
from tests.pipeline.clone import Clone
from vae_ext.backend import compiled_module
from vae_ext.source import source_digest

ROOT = Path(__file__).resolve().parents[2]
RAW = ROOT / "data" / "raw" / "mnist"


def write_idx(folder: Path, name: str, array: npt.NDArray[np.uint8]) -> None:
    """Writes a gzipped IDX file and its line of SHA256SUMS."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.tobytes()
    (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    with (folder / "SHA256SUMS").open("a", encoding="utf-8") as sums:
        sums.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")


def small_mnist(folder: Path, train: int = 400, test: int = 200) -> Path:
    """Writes the first training and test images of MNIST, as IDX files."""
    folder.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        for kind, header, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            name = f"{prefix}-{kind}-ubyte"
            with gzip.open(RAW / f"{name}.gz") as file:  # the rest need not be decompressed
                content = file.read(header + count * size)[header:]
            shape = (count, 28, 28) if size > 1 else (count,)
            write_idx(folder, name, np.frombuffer(content, np.uint8).reshape(shape))
    return folder


def set_params(file: Path, changes: dict[str, object]) -> None:
    """Changes dotted keys of a params.yaml, and keeps everything else."""
    from ruamel.yaml import YAML  # not on every GPU machine, where other tests of this folder run

    yaml = YAML()
    params = yaml.load(file.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = params
        for name in sections:
            section = section[name]
        section[last] = value
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)


def error_of(program: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the error output of a program that must end with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(program)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


SMALL: dict[str, object] = {
    "data.path": "data/raw/small",
    "data.validation": 100,
    "model.hidden": [32],
    "model.latent_dim": 4,
    "train.epochs": 2,
    "evaluate.importance_samples": 3,
}


def init_git(folder: Path) -> None:
    """Makes a folder a git repository, with its files as the first commit."""
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main"], cwd=folder, check=True)
    for name, value in (("name", "A Tester"), ("email", "tester@example.org")):
        subprocess.run(["git", "config", f"user.{name}", value], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "Start"], cwd=folder, check=True)


@pytest.fixture(scope="session")
def fresh_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small data, small parameters and a git history; made once and copied."""
    folder = tmp_path_factory.mktemp("fresh_workspace")
    small_mnist(folder / "data" / "raw" / "small")
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(folder / "params.yaml", SMALL)
    init_git(folder)
    return folder


@pytest.fixture
def workspace(fresh_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small data and small parameters, in which stages are called as functions."""
    shutil.copytree(fresh_workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prepared(workspace: Path) -> Path:
    """A workspace after the prepare stage."""
    from pipeline import prepare  # as above

    prepare.main()
    return workspace


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium without network access."""
    with launched() as browser:
        yield browser


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for data beside which the prepare stage can run; quicker to make than a workspace."""
    (tmp_path / "data/raw").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data/raw"


def first_results(folder: Path, cache: Path) -> None:
    """Copies every file that git tracks or would track, with small data in place of MNIST, and runs `dvc repro`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = ("data/raw", "results/", "recipes/results", "recipes/comparisons", "recipes/prepared.json")
    for name in listed.stdout.splitlines():
        dropped = name.endswith("dvc.lock") or (name.startswith(ours) and not name.startswith("results/benchmarks/"))
        # Each recipe adds stages that cost DVC time even if they do not run.
        dropped = dropped or (name.startswith("recipes/") and name.endswith(".yaml") and name != "recipes/dvc.yaml")
        if not dropped and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    small_mnist(folder / "data/raw/small")
    set_params(folder / "params.yaml", SMALL)
    init_git(folder)
    clone = Clone(folder, cache)
    clone.run_ok("dvc", "repro")
    clone.commit("First results")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A copy of the repository after its first `dvc repro`, which is run once for all test files and processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    ready, cache = base / "first_results", base / "cache"
    with FileLock(base / "first_results.lock"):
        if not ready.exists():
            # Reuses the compiled module of this tree: only edited kernels are compiled.
            module = compiled_module()
            built = Path(module.__file__ or "").parent if module is not None else Path()
            if built.name.startswith(source_digest()[:16]):
                (cache / "vae_ext").mkdir(mode=0o700, parents=True)
                shutil.copytree(built, cache / "vae_ext" / built.name)
            making = tmp_path_factory.mktemp("first_results")
            first_results(making, cache)
            making.rename(ready)
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ready, folder, symlinks=True, dirs_exist_ok=True)
    clone = Clone(folder, cache)
    yield clone
    import psutil  # type: ignore[import-untyped]  # as above

    # Not by DVC: a worker that was busy when its queue became empty misses DVC's shutdown message, and later ones.
    for pid in (folder / ".dvc/tmp/exps/celery").glob("*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(int(pid.read_text(encoding="utf-8")))
            if "queue-worker" in worker.cmdline():
                worker.kill()
