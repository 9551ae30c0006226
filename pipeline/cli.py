"""How a stage starts and how it fails: a user's mistake is one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.paths import DEFAULT, RECIPES, Place, place_of


class UserError(Exception):
    """Something that the user can mend; each line of the message names the parameter or file, what was expected, what came."""

    status = 2


class Interrupted(Exception):  # noqa: N818 - not an error
    """The user, or the system, asked for an early end; the message says what is kept."""

    status = 130


def progress(text: str) -> None:
    """Says to who waits at a terminal what is being done."""
    if sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)


def run(stage: Callable[[], None]) -> None:
    """Runs a stage as the program, with a readable end."""
    _open_streams()
    try:
        _run_and_flush(stage)
    except UserError as error:
        # In one piece: other processes of a run may be writing too.
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        sys.exit(error.status)
    except BrokenPipeError:  # whoever read the output, as head does, has seen enough
        _flushed()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # a full disk, a folder that must not be written
        what = error.filename or ("a file" if _flushed() else "standard output")
        print(f"error: {what}: {error.strerror or error}", file=sys.stderr)
        sys.exit(UserError.status)
    except UnicodeEncodeError as error:
        print(f"error: {error.object!a}: expected a name that is valid Unicode", file=sys.stderr)
        sys.exit(UserError.status)
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(interruption.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(Interrupted.status)


def _open_streams() -> None:
    """Opens the null device in place of a standard stream that was closed, whose number the next file would get."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _flushed() -> bool:
    """Whether the output can be written; if not, what it still holds goes nowhere, or would fail again while exiting."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _run_and_flush(stage: Callable[[], None]) -> None:
    """Runs a stage and writes what its output still holds: what goes wrong with it is said here, and not while exiting."""
    try:
        stage()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def run_stage(stage: Callable[[Place], None], about: str | None) -> None:
    """Runs a stage of the default's pipeline or, where the command line names one, of a recipe's."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="a file of recipes/, without .yaml; without one, params.yaml is all there is")
    recipe: str | None = parser.parse_args().recipe

    def here() -> None:
        if recipe is not None and not (RECIPES / f"{recipe}.yaml").is_file():
            raise UserError(f"{RECIPES / recipe}.yaml: missing; expected a recipe of that name")
        stage(DEFAULT if recipe is None else place_of(recipe))

    run(here)
