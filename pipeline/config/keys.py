"""Nested parameters by dotted keys, such as train.epochs."""

from __future__ import annotations

from typing import Any


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flatten(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return found


def diff_keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The dotted keys that two sets of parameters do not have in common, with the same value."""
    return [key for key in {**one, **other} if key not in one or key not in other or one[key] != other[key]]
