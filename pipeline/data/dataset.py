"""Reads the images at ``data.path`` with the reader of their format."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.params import Data
from pipeline.config.paths import PARAMS
from pipeline.data.readers.arrays import SUFFIXES as ARRAYS
from pipeline.data.readers.arrays import read_arrays
from pipeline.data.readers.idx import is_idx, read_idx
from pipeline.data.readers.image_folder import SUFFIXES as PICTURES
from pipeline.data.readers.image_folder import read_folder
from pipeline.data.readers.raw import RawDataset
from pipeline.runtime.errors import UserError, quoted


def read_dataset(params: Data) -> RawDataset:
    """Reads the data set with the reader of its format.

    Raises:
        UserError: if the data are not valid in that format.
    """
    path, kind = Path(params.path), params.format
    if kind == "auto":
        if path.is_dir():
            entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
            suffixes = {"folder" if entry.is_dir() else entry.suffix.lower() for entry in entries}
            kind = "idx" if is_idx(path) else "arrays" if suffixes & ARRAYS else "pictures"
            if kind == "arrays" and suffixes & {"folder", *PICTURES}:
                raise UserError(f"{PARAMS}: data.format: expected arrays or pictures, since {path} has both, got 'auto'")
            if kind == "pictures" and not suffixes & {"folder", *PICTURES}:
                what = "IDX files, arrays (.npy, .npz) or pictures (PNG, JPEG, WebP, TIFF)"
                raise UserError(f"{path}: expected {what}, got {', '.join(entry.name for entry in entries[:3]) or 'nothing'}")
        elif path.suffix.lower() in ARRAYS:
            kind = "arrays"
        else:
            raise UserError(f"{PARAMS}: data.path: expected a folder, or a .npy or .npz file, got {params.path!r}")
    if kind != "arrays" and not path.is_dir():
        raise UserError(f"{PARAMS}: data.path: expected a folder with data.format {kind}, got {params.path!r}")
    unused = {"pictures": {}, "arrays": {"fit": "crop", "color": None}, "idx": {"fit": "crop", "color": None, "size": None}}
    for name, unset in unused[kind].items():
        if (value := getattr(params, name)) != unset:
            raise UserError(f"{PARAMS}: data.{name}: expected {unset or 'null'} for data.format {kind}, got {quoted(value)}")
    if kind == "idx":
        return read_idx(path, params.white)
    if kind == "arrays":
        return read_arrays(path, params.size, params.white)
    return read_folder(path, params)
