"""What a user can mend, and an end that was asked for: neither is shown with a traceback."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can mend; each line of the message names the parameter or file, what was expected, what came."""

    status = 2


class Interrupted(Exception):  # noqa: N818 - not an error
    """The user, or the system, asked for an early end; the message says what is kept."""

    status = 130


def quoted(value: object, limit: int = 80) -> str:
    """A value as a message quotes it: as YAML spells it, in one line, and not longer than one reads."""
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
    """Text of somebody else as a part of a message: one line, without control characters, cut."""
    text = printable(" ".join(text[: 4 * limit].split()))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def printable(text: str) -> str:
    """Text with its control characters, and what else a terminal would obey, as escape sequences."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def closest(name: str, known: Sequence[str]) -> str | None:
    """The known name that a wrong one may be meant for: one but for a typing error, or the only one that starts like it, or one
    that is much like it.
    """

    def likeness(one: str) -> tuple[float, bool]:
        return difflib.SequenceMatcher(None, one, name).ratio(), one[:1] == name[:1]  # who mistypes rarely starts wrong

    near = sorted(difflib.get_close_matches(name, known, n=max(1, len(known))), key=likeness, reverse=True)
    same_start = [one for one in known if one.startswith(name) or name.startswith(one)]
    if len(same_start) == 1 and not (near and likeness(near[0])[0] > 0.8):
        return same_start[0]
    return near[0] if near else None
