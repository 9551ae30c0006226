"""Classes for models that use them: whether the images have any, and the number of a class from its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.params import Model
from pipeline.runtime.errors import UserError, in_line, quoted

MAX_LISTED = 12  # class names in an error message
WITHOUT_CLASSES = {"model.condition": None, "model.prior": "standard"}


def expect_classes(params: Model, file: Path, names: Sequence[str] | None, source: str) -> None:
    """Checks that the images have classes if the model, whose parameters are in ``file``, uses them.

    Raises:
        UserError: if they have none.
    """
    for key in params.keys_of_classes() if names is None else []:
        expected = quoted(WITHOUT_CLASSES[key]).strip("'")
        raise UserError(f"{file}: {key}: expected {expected}, since the images in {source} have no classes, got 'label'")


def class_number(one: str | int, names: Sequence[str]) -> int:
    """Returns the number of a class, given its name or its number; a name of digits comes before a number.

    Raises:
        ValueError: if there is no such class.
    """
    if one in names:
        return names.index(str(one))
    if str(one).isdecimal() and int(one) < len(names):
        return int(one)
    raise ValueError(f"expected {a_class(names)}, got {quoted(one)}")


def a_class(names: Sequence[str]) -> str:
    """Returns what can name a class, for error messages."""
    listed = ", ".join(map(in_line, names[:MAX_LISTED])) + ", ..." * (len(names) > MAX_LISTED)
    return f"a class ({listed}) or its number, from 0 to {len(names) - 1}"
