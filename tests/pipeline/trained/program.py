"""Runs the program `vae` in this process."""

from __future__ import annotations

import pytest

from pipeline import __main__ as command


def vae(words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vae", *words.split()])
        command.main()
