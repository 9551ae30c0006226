"""What may lie at ``data.path``: regular files in folders, with names that are text. Others hang readers, or escape DVC."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import NoReturn

from pipeline.config.paths import PARAMS
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import expect_file


def expect_source(path: Path) -> None:
    """Whether ``data.path`` is a file or a folder of files, which DVC reads first to decide whether the stage prepare runs.

    A link to a folder is refused below it, since DVC does not look behind it, and would call changed data the same. It does
    behind ``data.path`` itself, and behind a link to a file.

    Raises:
        UserError: for the first entry that is wrong.
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
            elif entry.is_symlink() and not name.startswith("."):  # no reader enters that
                what = "a symbolic link, behind which DVC sees no change; move or copy the folder itself here"
                raise UserError(f"{entry}: expected a folder, got {what}")


def refuse_unreadable(error: OSError) -> NoReturn:
    """Of a folder, as :func:`os.walk` tells it."""
    raise UserError(f"{error.filename}: expected a folder that can be read: {error.strerror}")


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode of one line, which every file and figure that it goes into can hold."""
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
