"""Nested parameters by dotted keys, such as train.epochs."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flatten(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return found


def diff_keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The dotted keys that two sets of parameters do not have in common, with the same value."""
    return [key for key in {**one, **other} if key not in one or key not in other or one[key] != other[key]]


def keys_of(section: Any, above: str = "") -> list[str]:
    """The dotted keys that a section of parameters, a dataclass, can have: the sections in it, and the keys in those."""
    found: list[str] = []
    hints = get_type_hints(section)
    for field in fields(section):
        kinds = get_args(hints[field.name]) or (hints[field.name],)  # of an optional section the first is its own
        found.append(above + field.name)
        found += keys_of(kinds[0], f"{above}{field.name}.") if is_dataclass(kinds[0]) else []
    return found
