"""How a stage starts and how it fails: a user's mistake is one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from pipeline.paths import DEFAULT, RECIPES, Place, place_of


class UserError(Exception):
    """Something that the user can mend; each line of the message names the parameter or file, what was expected, what came."""

    status = 2


class Interrupted(Exception):  # noqa: N818 - not an error
    """The user, or the system, asked for an early end; the message says what is kept."""

    status = 130


def run(stage: Callable[[], None]) -> None:
    """Runs a stage as the program, with a readable end."""
    try:
        stage()
    except UserError as error:
        # In one piece: other processes of a run may be writing too.
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        sys.exit(error.status)
    except OSError as error:  # a full disk, a folder that must not be written
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
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
