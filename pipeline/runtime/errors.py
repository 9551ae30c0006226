"""What a user can mend, and an end that was asked for: neither is shown with a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can mend; each line of the message names the parameter or file, what was expected, what came."""

    status = 2


class Interrupted(Exception):  # noqa: N818 - not an error
    """The user, or the system, asked for an early end; the message says what is kept."""

    status = 130


def quoted(value: object, limit: int = 80) -> str:
    """A value as a message quotes it: in one line, and not longer than one reads."""
    return in_line(repr(value), limit)


def in_line(text: str, limit: int = 80) -> str:
    """Text of somebody else as a part of a message: one line, without control characters, cut."""
    text = printable(" ".join(text[: 4 * limit].split()))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def printable(text: str) -> str:
    """Text with its control characters, and what else a terminal would obey, as escape sequences."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def closest(name: str, known: Sequence[str]) -> str | None:
    """The known name that a wrong one may be meant for: the only one that starts like it, or one that is much like it."""
    same_start = [one for one in known if one.startswith(name) or name.startswith(one)]
    return same_start[0] if len(same_start) == 1 else next(iter(difflib.get_close_matches(name, known, n=1)), None)
