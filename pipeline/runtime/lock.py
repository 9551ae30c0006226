"""Lets one stage at a time write to a folder: a second one reports which stage holds it, and exits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text

LOCKS = Path(".locks")


@contextmanager
def locked(folder: Path, stage: str) -> Iterator[None]:
    """Locks a folder for a stage that writes to it. The system releases the lock when the process ends, however it ends.

    Args:
        folder: the output folder; the lock file is in ``.locks``, where DVC removes nothing.
        stage: the stage's name, for the message that others show.

    Raises:
        UserError: if another process holds the lock.
    """
    file = LOCKS / folder.as_posix().replace("/", ".")
    LOCKS.mkdir(exist_ok=True)
    lock, holder = FileLock(file.with_name(f"{file.name}.lock")), file.with_name(f"{file.name}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = "another process"
        with suppress(FileNotFoundError):  # the holder has the lock and has not written its name yet
            owner = holder.read_text(encoding="utf-8")
        raise UserError(f"{folder}: in use by {owner}; wait for it to end") from None
    try:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        write_text(holder, f"{stage} (process {os.getpid()}, since {since})")
        yield
    finally:
        lock.release()
