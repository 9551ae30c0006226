"""One stage at a time writes to a folder: another is told which one does, and ends."""

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
    """Holds a folder for a stage that writes there. The system releases it with the process, however that ends.

    Args:
        folder: of the tree; the lock lies elsewhere, where DVC removes nothing.
        stage: what others are told.

    Raises:
        UserError: if another process holds it.
    """
    file = LOCKS / folder.as_posix().replace("/", ".")
    LOCKS.mkdir(exist_ok=True)
    lock, holder = FileLock(file.with_name(f"{file.name}.lock")), file.with_name(f"{file.name}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = "another process"
        with suppress(FileNotFoundError):  # before the first one has signed
            who = holder.read_text(encoding="utf-8")
        raise UserError(f"{folder}: in use by {who}; wait for it to end") from None
    try:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        write_text(holder, f"{stage} (process {os.getpid()}, since {since})")
        yield
    finally:
        lock.release()
