"""Atomic writes: a file appears complete or not at all.

Each is written in a temporary folder beside its target, then renamed. That folder has an unpredictable name and private
permissions, and is locked while its process lives; the next writer there removes what killed processes left behind.
A symbolic link at the target is replaced, not followed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runtime.errors import UserError

if TYPE_CHECKING:  # pandas takes a second to import, and `vae info` does without it
    import pandas as pd

# Includes the host name: a network file system does not show another machine's locks.
PREFIX = f".vae-tmp-{platform.node()}-"
# File types other than regular files.
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def expect_file(path: Path) -> None:
    """Checks that a path is a regular file or a link to one: reading a named pipe or a device may never end.

    Raises:
        UserError: if it is something else.
        OSError: if there is nothing, as opening it would raise.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise UserError(f"{path}: expected a file, got {KINDS[kind]}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; it takes the name ``path`` if the block ends without an exception."""
    with _temporary_folder(path.parent, of=path) as folder:
        temporary = folder / path.name
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; it replaces ``path`` if the block ends without an exception."""
    with _temporary_folder(path.parent, of=path) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush_to_disk(file)
        with suppress(FileNotFoundError):
            path.rename(folder / f"{path.name}.before")
        temporary.rename(path)


@contextmanager
def all_files(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder; its files move into ``folder``, beside those already there, if the block raises nothing."""
    with _temporary_folder(folder, of=folder) as temporary:
        yield temporary
        for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = folder / path.relative_to(temporary)
            _make_folder(target.parent)
            path.replace(target)


@contextmanager
def _temporary_folder(parent: Path, of: Path) -> Iterator[Path]:
    """Yields a new folder in ``parent`` and removes it at the end; an OSError in it names ``of``, not the temporary path."""
    temporary = parent / PREFIX
    try:
        _make_folder(parent)
        for abandoned in parent.glob(f"{PREFIX}*"):
            _remove_if_abandoned(abandoned)
        temporary, lock = _locked_folder(parent)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)
    except BrokenPipeError:  # from output printed in the block
        raise
    except OSError as error:
        # A full disk raises an OSError without a file name, in some libraries without an errno either.
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            reason = os.strerror(error.errno) if error.errno else f"could not be written: {error}"
            raise OSError(error.errno, reason, str(of)) from error
        raise


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file has that name
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """Creates a temporary folder; returns it and its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):  # another process removed it as abandoned before it was locked
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    """Removes a temporary folder if its process has ended."""
    with suppress(OSError):  # another user's, or in use
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _flush_to_disk(path: Path) -> None:
    """Flushes a file to disk, since after a power failure its name must not exist without its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Returns the sha256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, atomically."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: Path, table: pd.DataFrame, index: bool = False) -> None:
    """Writes a table as CSV with six significant digits, atomically."""
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=index, float_format="%.6g")
