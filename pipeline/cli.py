"""How a stage starts and how it fails: a user's mistake is one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can mend; each line of the message names the parameter or file, what was expected, what came."""


def run(stage: Callable[[], None]) -> None:
    """Runs a stage as the program, with a readable end."""
    try:
        stage()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
