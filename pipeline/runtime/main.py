"""Starts a stage and reports its errors: a user's mistake is one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipeline.runtime.errors import Interrupted, UserError, in_line, printable
from pipeline.runtime.parent import end_with_parent


def run(stage: Callable[[], object], about: str | None = None) -> None:
    """Runs a stage as the main program, with readable errors.

    Args:
        about: the ``--help`` text of a program that takes no arguments; None: the stage parses its own arguments.
    """
    end_with_parent()
    _open_streams()
    try:
        if about is not None:
            argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
        _run_and_flush(stage)
    except UserError as error:
        _end("".join(f"error: {line}\n" for line in str(error).split("\n")), error.status)
    except BrokenPipeError:  # the reader, such as head, closed the pipe
        _flushed()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # such as a full disk or a folder without write permission
        what = error.filename or ("a file" if _flushed() else "standard output")
        _end(f"error: {what}: {error.strerror or error}\n")
    except UnicodeEncodeError as error:
        _end(f"error: {error.object!a}: expected a name that is valid Unicode\n")
    except Interrupted as interruption:
        _end(f"{interruption}\n", interruption.status)
    except KeyboardInterrupt:
        _end("interrupted\n", Interrupted.status)
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        _end(f"error: out of memory: {in_line(str(error), 200) or 'Python could allocate no more'}\n")


def _end(message: str, status: int = UserError.status) -> NoReturn:
    """Exits with a message, written in one call since other processes of a run may be writing too."""
    with suppress(OSError):
        sys.stderr.write("\n".join(map(printable, message.split("\n"))))
        sys.stderr.flush()
    sys.exit(status)


def _of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory ran out; torch raises a RuntimeError, which only its message distinguishes on the CPU."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def _open_streams() -> None:
    """Makes printing safe in any locale, and with closed standard streams.

    A closed stream is replaced by the null device: its descriptor would otherwise go to the next file that is opened.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed() -> bool:
    """Whether standard output can be written; if not, discards its buffer, which would fail again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _run_and_flush(stage: Callable[[], object]) -> None:
    """Runs a stage, then flushes standard output here, so that a write error is reported and not raised at exit."""
    try:
        stage()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
