"""Finds or builds the compiled module, and selects the backend.

The kernels that run are those of the source tree. In a checkout, a module is loaded only if it has the digest of the current
sources; otherwise it is built once, into a cache outside the tree. So a copy of the repository without build products (such as
a queued experiment's) runs its own kernels, and stale ones never run. If nothing can be compiled, the reference is used, with
one warning that gives the reason.

A module's sha256 is recorded when it is built; a damaged module, which could crash the process, is rebuilt instead of loaded.
The cache must belong to the user or root, and be writable by nobody else, since its contents are executed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock, Timeout

from vae_ext.source import ROOT, checksum_file, is_checkout, module_digest, source_digest, wants_cuda, why_no_cuda

BACKENDS = ("reference", "cpu", "cuda")


class BackendError(RuntimeError):
    """A requested backend is not available."""


@dataclass(frozen=True)
class Loaded:
    """The compiled module with its origin, or None with the reason."""

    module: ModuleType | None
    origin: str
    has_cuda: bool = False


def backend(device: torch.device | str = "cpu") -> str:
    """Returns the implementation for tensors on a device: "cuda", "cpu" or "reference".

    The environment is read once, at the first call.

    Args:
        device: the tensors' device.

    Raises:
        BackendError: if ``VAE_EXT_BACKEND`` requests a backend that is not available there.
    """
    return backend_of(torch.device(device).type)


@functools.cache
def backend_of(kind: str) -> str:
    """Returns the same for a device type, cached: the operator asks at every call."""
    forced = _forced()
    if forced == "reference":
        return "reference"
    missing = _missing(kind)
    if forced is not None and forced != kind:
        raise BackendError(f"VAE_EXT_BACKEND={forced}, but the tensors are on {kind}")
    if forced is not None and missing is not None:
        raise BackendError(f"VAE_EXT_BACKEND={forced}: {missing}")
    return kind if missing is None else "reference"


def backend_report() -> str:
    """Describes the module, how it was built, and why a backend is not used, in a few lines for a log or a bug report."""
    lines = [f"vae_ext on torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}"]
    if _forced() == "reference":
        return "\n".join([*lines, "backend: reference, as VAE_EXT_BACKEND=reference asks"])
    loaded = _loaded()
    if loaded.module is None:
        return "\n".join([*lines, f"backend: reference, because {loaded.origin}"])
    info = loaded.module.build_info()
    capabilities = ", ".join(loaded.module.cpu_capabilities())
    lines.append(f"module: {loaded.origin}")
    lines.append(f"digest: {info['digest']}")
    lines.append(f"compiler: {info['compiler']}")
    lines.append(f"cpu: {loaded.module.cpu_capability()} (this machine runs {capabilities})")
    missing = _missing("cuda")
    lines.append("cuda: compiled in" if missing is None else f"cuda: reference, {missing}")
    return "\n".join(lines)


def compiled_module() -> ModuleType | None:
    """Returns the compiled module, or None if there is none or the reference is forced."""
    return None if _forced() == "reference" else _loaded().module


@functools.cache
def _forced() -> str | None:
    name = os.environ.get("VAE_EXT_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise BackendError(f"VAE_EXT_BACKEND: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def _missing(kind: str) -> str | None:
    """Returns why there is no kernel for a device type, or None if there is one."""
    loaded = _loaded()
    if loaded.module is None:
        return loaded.origin
    if kind == "cuda" and not loaded.has_cuda:
        log = Path(loaded.module.__file__ or "").with_name("build-cuda.log")
        reason = f"which failed to compile ({log})" if log.is_file() else why_no_cuda()
        return f"built without CUDA, {reason}" if reason else "built without CUDA"
    return None if kind in ("cpu", "cuda") else f"there is no kernel for {kind} tensors"


@functools.cache
def _loaded() -> Loaded:
    try:
        path, how = _find_or_build()
        module = _import(path)
        _apply_capability(module)
    except _NoModuleError as error:
        reason = str(error)
    except ImportError as error:
        reason = f"{path} does not load: {error}"
    else:
        return Loaded(module, f"{path} ({how})", module.build_info()["cuda"] is not None)
    # A request for something that only the kernels have must not silently get the reference.
    for name in ("VAE_EXT_BACKEND", "VAE_EXT_CPU_CAPABILITY", "VAE_EXT_CUDA"):
        requested = os.environ.get(name)
        if requested and (name, requested) not in (("VAE_EXT_CUDA", "0"), ("VAE_EXT_CUDA", "auto")):
            raise BackendError(f"{name}={requested}: {reason}")
    warnings.warn(f"vae_ext uses its pure-PyTorch reference: {reason}", RuntimeWarning, stacklevel=3)
    return Loaded(None, reason)


class _NoModuleError(Exception):
    """There is no compiled module to load; the message gives the reason, for the warning."""


def _find_or_build() -> tuple[Path, str]:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    in_tree = Path(__file__).with_name(f"_C{suffix}")
    if not is_checkout():
        if not in_tree.is_file():
            raise _NoModuleError("this installation has no compiled module: install it again where there is a C++ compiler")
        if module_digest(in_tree) is None:
            checksum = checksum_file(in_tree)
            if not checksum.is_file():
                raise _NoModuleError(f"there is no {checksum}, which says what a whole module is: install vae_ext again")
            what = "its bytes are not those that were built (damaged, or stripped or repaired since)"
            raise _NoModuleError(f"{in_tree}: {what}: {checksum.name} records another sha256")
        return in_tree, "installed"
    digest = source_digest()
    if module_digest(in_tree) == digest:
        return in_tree, "built in the tree"
    return _from_cache(digest, f"_C{suffix}")


def _from_cache(digest: str, name: str) -> tuple[Path, str]:
    try:
        cache = _own_folder(_cache())
        folder = _own_folder(cache / f"{digest[:16]}-{_build_tag()}")
        module = folder / name
        if module_digest(module) == digest:
            return module, "from the cache"
        _sweep(cache)
        with _locked(folder):
            if module_digest(module) != digest:
                _build(digest, folder, name)
    except BackendError:
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        raise _NoModuleError(f"the build cache cannot be used: {error}") from error
    return module, "built just now, into the cache"


def _cache() -> Path:
    base = os.environ.get("VAE_EXT_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vae_ext"


def _own_folder(folder: Path) -> Path:
    """Returns the folder, creating it if needed; only this user and root may write to it, since its contents are executed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise _NoModuleError(f"the build cache {folder} belongs to another user (uid {status.st_uid}): set VAE_EXT_CACHE_DIR")
    if status.st_mode & 0o022:
        # Removing the permission now would not undo what others may have written.
        remedy = f"rm -r {shlex.quote(str(folder))}, or set VAE_EXT_CACHE_DIR"
        raise _NoModuleError(f"others can write to the build cache {folder}: {remedy}")
    return folder


def _sweep(cache: Path) -> None:
    """Deletes leftovers of killed compilations: while we hold the lock, no other process works there.

    Skips folders whose lock is held or cannot be opened.
    """
    for lock in cache.glob("*/lock"):
        with contextlib.suppress(OSError, NotImplementedError), FileLock(lock, timeout=0):  # Timeout is an OSError
            for scratch in lock.parent.glob("tmp*"):
                shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"vae_ext: waiting for another process that compiles the kernels into {folder}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build_tag() -> str:
    """Returns what determines the build besides the sources, as part of a folder name."""
    try:
        cuda = "cpu"
        if wants_cuda():
            cuda = "cuda-" + re.sub(r"[^\w.+]+", "-", os.environ.get("TORCH_CUDA_ARCH_LIST") or "any")
    except ValueError as error:
        raise BackendError(str(error)) from None
    return f"torch{torch.__version__}-{sys.implementation.cache_tag}-{platform.machine()}-{cuda}"


def _build(digest: str, folder: Path, name: str) -> None:
    """Runs setup.py, and moves the finished module into place atomically."""
    print(f"vae_ext: compiling the kernels in {ROOT / 'csrc'} (once, into {folder})", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = _compile(Path(scratch), folder / "build.log", name)
        if built is None and wants_cuda() and os.environ.get("VAE_EXT_CUDA") != "1":
            # The CPU kernels must not depend on a CUDA toolkit that does not fit the compiler or torch.
            (folder / "build.log").replace(folder / "build-cuda.log")
            built = _compile(Path(scratch), folder / "build.log", name, VAE_EXT_CUDA="0")
        if built is None:
            log = folder / "build.log"
            error = _first_error(log.read_text(encoding="utf-8", errors="replace"))
            raise _NoModuleError(f"the build failed: {error} (whole log: {log})")
        if not module_digest(built) == digest == source_digest():
            raise _NoModuleError("the sources changed while they were compiled: start again")
        # Flushed before renaming: after a crash there is the old module, this one, or one that its checksum rejects.
        for path in (built, checksum_file(built)):
            _flush(path)
            path.replace(folder / path.name)
        with contextlib.suppress(OSError):  # not supported by every file system, and not essential
            _flush(folder)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _compile(scratch: Path, log: Path, name: str, **environment: str) -> Path | None:
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", f"{scratch}/lib", "--build-temp", f"{scratch}/tmp"]
    with log.open("w", encoding="utf-8") as output:
        env = {**os.environ, **environment}
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, check=False)
    built = scratch / "lib" / "vae_ext" / name
    return built if done.returncode == 0 and built.is_file() else None


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["setup.py printed nothing"]
    errors = [line for line in lines if re.search(r"\berror: ", line) or line.startswith("vae_ext:")]
    return (errors or lines[-1:])[0]


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("vae_ext._C", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _apply_capability(module: ModuleType) -> None:
    requested = os.environ.get("VAE_EXT_CPU_CAPABILITY")
    if requested and not module.set_cpu_capability(requested):
        have = ", ".join(module.cpu_capabilities())
        raise BackendError(f"VAE_EXT_CPU_CAPABILITY: expected one that this machine runs ({have}), got {requested!r}")
