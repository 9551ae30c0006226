"""What a user can mend, and an end that was asked for: neither is shown with a traceback."""

from __future__ import annotations


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
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text[: 4 * limit].split()))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
