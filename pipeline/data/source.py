"""What may lie at ``data.path``: regular files in folders, with names that are text. Others hang readers, or escape DVC."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

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
    folders = [path] if path.is_dir() else []
    if not folders:
        expect_file(path)
    for folder in folders:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{folder}: expected a folder that can be read: {error.strerror}") from None
        for entry in entries:
            if not is_text(entry.name):
                got = os.fsencode(entry.name)
                raise UserError(f"{folder}: expected names in UTF-8, without control characters, got {got!r}")
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif entry.is_dir():
                if entry.name.startswith("."):  # which no reader enters
                    continue
                what = "a symbolic link, behind which DVC sees no change; move or copy the folder itself here"
                raise UserError(f"{entry.path}: expected a folder, got {what}")
            elif not entry.is_file(follow_symlinks=False):
                try:
                    expect_file(Path(entry.path))
                except OSError as error:
                    raise UserError(f"{entry.path}: expected a file, got a broken symbolic link: {error.strerror}") from None


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode of one line, which every file and figure that it goes into can hold."""
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
