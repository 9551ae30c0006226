"""How a stage starts and how it fails: a user's mistake is one clear line and exit code 2, never a traceback."""

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
    """Runs a stage as the program, with a readable end.

    Args:
        about: what ``--help`` says of a program that takes no arguments, and refuses any; None: the stage reads its own.
    """
    end_with_parent()
    _open_streams()
    try:
        if about is not None:
            argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
        _run_and_flush(stage)
    except UserError as error:
        _end("".join(f"error: {line}\n" for line in str(error).split("\n")), error.status)
    except BrokenPipeError:  # whoever read the output, as head does, has seen enough
        _flushed()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # a full disk, a folder that must not be written
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
    """Ends the program with a message, in one piece, since other processes of a run may be writing too."""
    with suppress(OSError):
        sys.stderr.write("\n".join(map(printable, message.split("\n"))))
        sys.stderr.flush()
    sys.exit(status)


def _of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory ran out, which torch reports as a RuntimeError: of the CPU's, only the words tell."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def _open_streams() -> None:
    """Makes whatever is printed printable: in any locale, and where a standard stream was closed.

    The null device takes a closed one's place, whose number the next file would get.
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
    """Whether the output can be written; if not, what it still holds goes nowhere, or would fail again while exiting."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _run_and_flush(stage: Callable[[], object]) -> None:
    """Runs a stage and writes what its output still holds: what goes wrong with it is said here, and not while exiting."""
    try:
        stage()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
