"""The cache of compiled modules: modules loaded from it are undamaged, of the current sources, and the user's own."""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

from vae_ext.backend import BackendError
from vae_ext.source import ROOT, checksum_file, module_digest, source_digest

backend: Any = importlib.import_module("vae_ext.backend")  # as an attribute of vae_ext, this name is the function

DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut to 20 kB, which raised SIGBUS": lambda module: os.truncate(module, 20_000),
    "cut by a byte": lambda module: os.truncate(module, module.stat().st_size - 1),
    "a page of zeros, which raised SIGSEGV": lambda module: overwrite(module, 4096, bytes(4096)),
    "a bit": lambda module: overwrite(module, 70_000, bytes([module.read_bytes()[70_000] ^ 1])),
    "empty": lambda module: module.write_bytes(b""),
    "gone": lambda module: module.unlink(),
    "without a checksum, as older versions left it": lambda module: checksum_file(module).unlink(),
    "with an empty checksum": lambda module: checksum_file(module).write_bytes(b""),
}


def overwrite(module: Path, offset: int, content: bytes) -> None:
    with module.open("r+b") as file:
        file.seek(offset)
        file.write(content)


class Compiler:
    """Replaces the real compiler: instantly returns this tree's module."""

    def __init__(self, module: Path) -> None:
        self.module, self.runs = module, 0

    def __call__(self, scratch: Path, log: Path, name: str, **environment: str) -> Path:
        self.runs += 1
        return self.copy_to(scratch)

    def copy_to(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        shutil.copy(checksum_file(self.module), folder)
        return Path(shutil.copy(self.module, folder))


@pytest.fixture
def compiler(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    monkeypatch.setenv("VAE_EXT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(backend, "__file__", str(tmp_path / "tree" / "backend.py"))  # no module was built here
    compiler = Compiler(Path(module.__file__ or ""))
    monkeypatch.setattr(backend, "_compile", compiler)
    return compiler


def find() -> tuple[Path, str]:
    path, how = backend._find_or_build()
    return path, how.split(",")[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_module_is_rebuilt_before_it_is_loaded(compiler: Compiler, damage: str) -> None:
    module, how = find()
    assert how == "built just now"
    assert find() == (module, "from the cache")
    DAMAGES[damage](module)
    assert module_digest(module) is None
    assert find() == (module, "built just now")
    assert module_digest(module) == source_digest()
    assert module.read_bytes() == compiler.module.read_bytes()
    assert find() == (module, "from the cache")
    assert compiler.runs == 2


def test_a_module_of_other_sources_is_not_loaded_from_the_cache(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = find()
    # Sources whose digests begin alike share a folder.
    monkeypatch.setattr(backend, "source_digest", lambda: source_digest()[:16] + 48 * "0")
    with pytest.raises(backend._NoModuleError, match="the sources changed while they were compiled"):
        find()
    assert module_digest(module) == source_digest()


def test_a_damaged_module_in_the_tree_is_not_loaded(compiler: Compiler, tmp_path: Path) -> None:
    beside = compiler.copy_to(tmp_path / "tree")
    assert find() == (beside, "built in the tree")
    os.truncate(beside, 20_000)
    assert find()[1] == "built just now"


def test_a_damaged_installation_is_reported(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "is_checkout", lambda: False)
    with pytest.raises(backend._NoModuleError, match="this installation has no compiled module"):
        find()
    beside = compiler.copy_to(tmp_path / "tree")
    assert find() == (beside, "installed")
    os.truncate(beside, 20_000)
    message = r"its bytes are not those that were built \(damaged, or stripped or repaired since\): .*\.sha256 records another"
    with pytest.raises(backend._NoModuleError, match=message):
        find()
    checksum_file(beside).unlink()
    with pytest.raises(backend._NoModuleError, match=rf"there is no .*{checksum_file(beside).name}, .*: install vae_ext again"):
        find()


def test_a_module_is_flushed_to_disk_before_it_is_renamed(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(handle: int) -> None:
        events.append(("flush", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def recorded_replace(path: Path, target: Path) -> Path:
        events.append(("name", target.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    module, _ = find()
    name, checksum = module.name, checksum_file(module).name
    assert events == [("flush", name), ("name", name), ("flush", checksum), ("name", checksum), ("flush", module.parent.name)]


def test_a_module_is_kept_if_its_folder_cannot_be_flushed(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fsync_of_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync_of_files)
    module, how = find()
    assert how == "built just now"
    assert find() == (module, "from the cache")


def test_the_cache_is_private_to_the_user(compiler: Compiler, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        module, _ = find()
    finally:
        os.umask(before)
    for folder in (tmp_path / "vae_ext", module.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o707, 0o777])
@pytest.mark.parametrize("inner", [False, True])
def test_a_cache_writable_by_others_is_rejected(compiler: Compiler, mode: int, inner: bool) -> None:
    module, _ = find()
    folder = module.parent if inner else module.parent.parent
    folder.chmod(mode)
    remedy = f"rm -r {shlex.quote(str(folder))}"
    message = f"others can write to the build cache {folder}: {remedy}, or set VAE_EXT_CACHE_DIR"
    with pytest.raises(backend._NoModuleError, match=f"^{re.escape(message)}$"):
        find()
    subprocess.run(remedy, shell=True, check=True)
    assert find()[1] == "built just now"


def let_own(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Makes all files appear to belong to a user, and this process to another one who is not root."""
    found = Path.stat

    def owned(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        mode, inode, device, links, _, *rest = found(path, follow_symlinks=follow_symlinks)
        return os.stat_result((mode, inode, device, links, uid, *rest))

    monkeypatch.setattr(Path, "stat", owned)
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)


def test_a_cache_of_another_user_is_rejected(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    find()
    let_own(monkeypatch, 4321)
    with pytest.raises(backend._NoModuleError, match=r"vae_ext belongs to another user \(uid 4321\): set VAE_EXT_CACHE_DIR"):
        find()


def test_a_cache_of_root_is_accepted(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    find()
    let_own(monkeypatch, 0)
    assert find()[1] == "from the cache"


def test_with_a_rejected_cache_the_reference_is_used_or_a_forced_kernel_fails(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vae_ext").mkdir()
    (tmp_path / "vae_ext").chmod(0o777)
    wishes = {"VAE_EXT_BACKEND": "cpu", "VAE_EXT_CPU_CAPABILITY": "default", "VAE_EXT_CUDA": "1"}
    for name in wishes:
        monkeypatch.delenv(name, raising=False)
    with pytest.warns(RuntimeWarning, match="vae_ext uses its pure-PyTorch reference: others can write to the build cache"):
        assert backend._loaded.__wrapped__().module is None
    for name, wish in wishes.items():
        with (
            monkeypatch.context() as only,
            pytest.raises(BackendError, match=f"{name}={wish}: others can write to the build cache"),
        ):
            only.setenv(name, wish)
            backend._loaded.__wrapped__()


def test_leftovers_of_killed_compilations_are_deleted_and_files_of_running_ones_are_kept(
    compiler: Compiler, tmp_path: Path
) -> None:
    module, _ = find()
    cache = module.parent.parent
    scratch = [folder / "tmpscratch" / "lib" for folder in (module.parent, cache / "other", cache / "busy")]
    for folder in scratch:
        folder.mkdir(parents=True)
        (folder / "half.o").touch()
        (folder.parents[1] / "lock").touch()
    module.unlink()
    with FileLock(cache / "busy" / "lock"):
        find()
    assert [folder.exists() for folder in scratch] == [False, False, True]
    assert sorted(path.name for path in module.parent.iterdir()) == [module.name, f"{module.name}.sha256", "lock"]


def test_a_lock_that_cannot_be_opened_does_not_prevent_a_build(compiler: Compiler, tmp_path: Path) -> None:
    foreign = tmp_path / "vae_ext" / "foreign" / "lock"
    foreign.mkdir(parents=True)  # a folder, which root cannot open for writing either
    foreign.parents[1].chmod(0o700)
    with pytest.raises(OSError, match="lock"), FileLock(foreign, timeout=0):
        pass
    assert find()[1] == "built just now"


def test_two_processes_compile_once_and_the_second_reports_that_it_waits(compiler: Compiler) -> None:
    module, _ = find()
    kept = {path: path.read_bytes() for path in (module, checksum_file(module))}
    module.unlink()
    ours, theirs = os.pipe()

    def find_in_another_process() -> None:
        sys.stderr = os.fdopen(theirs, "w", encoding="utf-8")
        find()

    second = multiprocessing.get_context("fork").Process(target=find_in_another_process)
    with os.fdopen(ours, encoding="utf-8") as said:
        with FileLock(module.parent / "lock"):
            second.start()
            os.close(theirs)
            waits = f"vae_ext: waiting for another process that compiles the kernels into {module.parent}\n"
            assert said.readline() == waits
            for path, content in kept.items():
                path.write_bytes(content)
        assert said.read() == ""  # otherwise it would report that it compiles
    second.join()
    assert second.exitcode == 0


def test_an_outdated_setuptools_is_named() -> None:
    code = "import runpy, setuptools, sys; setuptools.__version__ = '65.5.0'; runpy.run_path(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "setup.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: setuptools: expected 77 or newer, got 65.5.0; pip install --upgrade setuptools\n"
