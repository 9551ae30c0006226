"""Runs the program `vae` in this process."""

from __future__ import annotations

import pytest

from pipeline import __main__ as command


def classes(kind: str, given: str = "data/prepared/test_labels.npy") -> str:
    """The option that a model of this kind needs, for images with these classes."""
    return f" --class {given}" if kind == "conditional" else ""


def vae(words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vae", *words.split()])
        command.main()
