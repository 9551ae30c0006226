"""Checks ``data.path``: regular files in folders, with printable names. Others block readers, or DVC does not track them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import NoReturn

from pipeline.config.paths import PARAMS
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import expect_file


def expect_source(path: Path) -> None:
    """Checks that ``data.path`` is a file or a folder of files; DVC hashes it to decide whether the prepare stage runs.

    DVC does not follow a link to a folder inside ``data.path`` and would miss changes there, so such a link is an error. It
    does follow ``data.path`` itself, and links to files.

    Raises:
        UserError: for the first invalid entry.
    """
    if not path.exists():
        fetch = f"; dvc pull {path} fetches it" if path.with_name(f"{path.name}.dvc").is_file() else ""
        raise UserError(f"{PARAMS}: data.path: expected a folder or a file, got {str(path)!r}, which is missing{fetch}")
    if not path.is_dir():
        expect_file(path)
        return
    for root, folders, files in os.walk(path, onerror=refuse_unreadable):
        for name in sorted(folders + files):
            entry = Path(root, name)
            if not is_text(name):
                got = os.fsencode(name)
                raise UserError(f"{root}: expected names in UTF-8, without control characters, got {got!r}")
            if name in files:
                try:
                    expect_file(entry)
                except OSError as error:
                    raise UserError(f"{entry}: expected a file, got a broken symbolic link: {error.strerror}") from None
            elif entry.is_symlink() and not name.startswith("."):  # no reader enters hidden folders
                what = "a symbolic link, behind which DVC sees no change; move or copy the folder itself here"
                raise UserError(f"{entry}: expected a folder, got {what}")


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raises a UserError for a folder that :func:`os.walk` cannot read."""
    raise UserError(f"{error.filename}: expected a folder that can be read: {error.strerror}")


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode without line breaks and control characters, so that every output can hold it."""
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
