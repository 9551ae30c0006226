"""Nested parameters as dotted keys, such as train.epochs."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Converts nested keys to dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flatten(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return found


def diff_keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Returns the dotted keys whose values differ between two sets of parameters, or that only one of them has."""
    return [key for key in {**one, **other} if key not in one or key not in other or one[key] != other[key]]


def keys_of(section: Any, above: str = "") -> list[str]:
    """Returns the dotted keys of a dataclass section: its fields, its subsections, and their keys."""
    found: list[str] = []
    hints = get_type_hints(section)
    for field in fields(section):
        kinds = get_args(hints[field.name]) or (hints[field.name],)  # for an optional section, the first argument is its class
        found.append(above + field.name)
        found += keys_of(kinds[0], f"{above}{field.name}.") if is_dataclass(kinds[0]) else []
    return found
