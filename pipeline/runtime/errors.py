"""Errors that a user can fix, and requested interruptions: both end without a traceback."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix; each line names the parameter or file, what was expected and what was found."""

    status = 2


class Interrupted(Exception):  # noqa: N818 - not an error
    """The user or the system requested an early stop; the message says what is kept."""

    status = 130


def quoted(value: object, limit: int = 80) -> str:
    """Returns a value as error messages show it: in YAML syntax, on one line, truncated to ``limit`` characters."""
    return in_line(_spelled(value), limit)


def _spelled(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_spelled(key)}: {_spelled(one)}' for key, one in value.items())}}}"
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    return str(value) if isinstance(value, datetime.date) else repr(value)


def in_line(text: str, limit: int = 80) -> str:
    """Returns foreign text for use in a message: on one line, without control characters, truncated."""
    text = printable(" ".join(text[: 4 * limit].split()))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def printable(text: str) -> str:
    """Returns text with control and other non-printable characters as escape sequences, since a terminal would obey them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def closest(name: str, known: Sequence[str]) -> str | None:
    """Returns the name most likely meant, or None: a near match, the only one with the same beginning, or the most similar."""

    def likeness(one: str) -> tuple[float, bool]:
        return difflib.SequenceMatcher(None, one, name).ratio(), one[:1] == name[:1]  # typos are rare in the first letter

    near = sorted(difflib.get_close_matches(name, known, n=max(1, len(known))), key=likeness, reverse=True)
    same_start = [one for one in known if one.startswith(name) or name.startswith(one)]
    if len(same_start) == 1 and not (near and likeness(near[0])[0] > 0.8):
        return same_start[0]
    return near[0] if near else None
