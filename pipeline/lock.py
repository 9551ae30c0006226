"""One stage at a time writes to a place of the tree: another is told who is there, and ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.cli import UserError
from pipeline.paths import LOCKS


@contextmanager
def locked(place: Path, stage: str) -> Iterator[None]:
    """Holds a place for a stage that writes there. The system releases it with the process, however that ends.

    Args:
        place: a folder of the tree; the lock lies elsewhere, where DVC removes nothing.
        stage: what others are told.

    Raises:
        UserError: if another process holds it.
    """
    file = LOCKS / place.as_posix().replace("/", ".")
    LOCKS.mkdir(exist_ok=True)
    lock, holder = FileLock(file.with_name(f"{file.name}.lock")), file.with_name(f"{file.name}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise UserError(f"{place}: expected to be the only one that writes there, got {who}; wait for it to end") from None
    try:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        holder.write_text(f"{stage} (process {os.getpid()}, since {since})", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
