"""Reads images from arrays: .npy and .npz files, with or without labels."""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.prepared import Bytes, SplitName
from pipeline.data.readers.raw import (
    MAX_BYTES,
    Brightness,
    RawDataset,
    as_batch,
    dataset,
    expect_size,
    format_shape,
    to_bytes,
)
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import expect_file

SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SUFFIXES = {".npy", ".npz"}
Named = dict[SplitName, tuple[str, npt.NDArray[Any]]]
REMEDY = "data.white: {:g} takes that as white"
KINDS = {
    **dict.fromkeys(["x", "image", "images", "imgs", "data", "arr_0"], "images"),
    **dict.fromkeys(["y", "label", "labels", "target", "targets", "arr_1"], "labels"),
}
# Exceptions that NumPy raises for damaged or wrong files.
READ_ERRORS = (ValueError, EOFError, OSError, OverflowError, MemoryError, RuntimeError, tokenize.TokenError)
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error)
NAMES = "images and labels (or x and y, data and target), for splits with _train, _validation, _test after or before"


class ArrayImages:
    """Images [N, H, W], [N, H, W, C], or rows of values [N, D]; bytes, booleans, floats or, with ``white``, any numbers.

    [N, C, H, W] is accepted where it is unambiguous. Values may lie outside [0, white] by less than half a grey level, as
    rounding leaves them.

    Args:
        name: the array's name, for messages.
        array: in memory or memory-mapped.
        size: [H, W] of images that are rows of values: grey or, if a row has three times as many values, planes of red, green
            and blue; None: as the array's shape says, or 1 x D for rows.
        white: pixel value of white; None: 255 for bytes, True for booleans, 1 for floats.
        remedy: hint for the message about a value above white.

    Raises:
        UserError: if the array is not of such a shape and type.
    """

    def __init__(
        self, name: str, array: npt.NDArray[Any], size: Sequence[int] | None, white: float | None, remedy: str = REMEDY
    ) -> None:
        self.name, self.array, self.remedy, self.notes = name, array, remedy, Counter[str]()
        kinds = "[N, H, W], [N, H, W, C] or [N, D]"
        if array.ndim not in (2, 3, 4) or 0 in array.shape[1:]:
            raise UserError(f"{name}: expected images {kinds}, got {format_shape(array.shape)}")
        own = 255.0 if array.dtype == np.uint8 else {"b": 1.0, "f": 1.0}.get(array.dtype.kind)
        if array.dtype.kind not in "biuf" or (white is None and own is None):
            hint = "; data.white, the value that is white, takes other numbers" if array.dtype.kind in "iu" else ""
            raise UserError(f"{name}: expected bytes (uint8), booleans or floats in [0, 1], got {array.dtype}{hint}")
        self.given, self.white = white is not None, white or own or 0.0
        self.brightest = Brightness(0.0, 0.0, self.white)
        if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
            self.array = array = np.moveaxis(array, 1, 3)
        if array.ndim == 4 and array.shape[3] not in (1, 3):
            raise UserError(f"{name}: expected images [N, H, W, C] of 1 or 3 colours, got {format_shape(array.shape)}")
        self.shape, self.row_note = self._shape(size)
        expect_size(name, self.shape)

    def _shape(self, size: Sequence[int] | None) -> tuple[tuple[int, ...], str | None]:
        """Returns an image's shape, and a note if the array does not determine it."""
        shape = self.array.shape[1:]
        if len(shape) > 1:
            shape = shape[:2] if shape[2:] in ((), (1,)) else (3, *shape[:2])
            if size is not None and tuple(size) != shape[-2:]:
                raise UserError(
                    f"{self.name}: expected images of {format_shape(tuple(size))}, since arrays are not resized, got "
                    f"{format_shape(shape)}"
                )
            return shape, None
        (length,) = shape
        if size is None:
            return (1, length), f"rows taken as images of 1 x {length}; data.size gives another shape"
        if length == math.prod(size):
            return tuple(size), None
        if length == 3 * math.prod(size):
            planes = f"rows taken as planes of {format_shape(tuple(size))}, red, then green, then blue"
            return (3, *size), f"{planes}; where colours alternate, save the array as [N, H, W, 3]"
        wanted = f"a height and a width of {length} pixels{f', or {length // 3} in colour' if length % 3 == 0 else ''}"
        raise UserError(f"{self.name}: data.size: expected {wanted}, got {list(size)}")

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: npt.NDArray[np.int64]) -> Bytes:
        part = self._as_bytes(np.asarray(self.array[rows]), rows)
        if self.row_note is not None:
            self.notes[self.row_note] += len(rows)
        return (np.moveaxis(part, 3, 1) if part.ndim == 4 else part).reshape(-1, *self.shape)

    def _as_bytes(self, part: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> Bytes:
        if part.dtype == np.uint8 and self.white == 255:
            levels: Bytes = part
        else:
            levels, wrong = to_bytes(part, self.white)
            if wrong.any():
                raise self._fault(part, wrong, rows)
            # Ignores differences within the precision of the source.
            rounded = np.abs(levels / 255 - part / self.white).reshape(len(part), -1).max(1) > 1e-3
            self.notes["images whose grey values were rounded to one of 256"] += int(rounded.sum())
        brightest = float(part.max())
        self.brightest = max(self.brightest, Brightness(brightest / self.white, brightest, self.white))
        return levels

    def _fault(self, part: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> UserError:
        row, *_ = np.argwhere(wrong)[0]
        value, top = float(part[wrong][0]), float(part.max())
        allowed = f"values in [0, {self.white:g}], as data.white says" if self.given else "floats in [0, 1]"
        hint = ""
        if not self.given and np.isfinite(part).all() and part.min() >= 0:
            hint = f"; {self.remedy.format(255 if 100 < top <= 255 else top)}"
        return UserError(f"{self.name}: expected {allowed}, got {value:g} in image {rows[row]}{hint}")


def read_arrays(path: Path, size: Sequence[int] | None, white: float | None) -> RawDataset:
    """Reads a .npy file of images, a .npz file, or a folder of either, with array names as in ``NAMES``.

    Nothing is unpickled or unpacked to disk.

    Raises:
        UserError: for data that are missing, damaged, pickled, too large to unpack, or named otherwise.
    """
    found, notes = _find_arrays(path)
    if "train" not in found["images"]:
        raise UserError(f"{path}: expected training images, got those of {', '.join(found['images'])}")
    images = {split: ArrayImages(f"{path}: {name}", array, size, white) for split, (name, array) in found["images"].items()}
    labels = {}
    for split, part in images.items() if found["labels"] else ():
        if split not in found["labels"]:
            raise UserError(f"{path}: expected labels for the {split} images, as for others, got none")
        name, values = found["labels"][split]
        if values.dtype.kind not in "iubU" or values.size != len(part) or values.shape[:1] != (len(part),):
            got = f"{values.dtype} {format_shape(values.shape)}"
            raise UserError(f"{path}: {name}: expected a whole number or name for each of {len(part)} images, got {got}")
        labels[split] = values.reshape(-1)
    return dataset(images, labels, notes)


def read_images(path: Path, shape: tuple[int, ...], white: float | None, remedy: str) -> ArrayImages:
    """Reads the only array of images of a file, for a model of this image shape; it may be a single image.

    Raises:
        UserError: as :func:`read_arrays`, and if there are several arrays of images.
    """
    images = _find_arrays(path)[0]["images"]
    if len(images) > 1:
        raise UserError(f"{path}: expected one array of images, got those of {', '.join(images)}")
    ((name, array),) = images.values()
    return ArrayImages(f"{path}: {name}", as_batch(array, shape), shape[-2:], white, remedy)


def _find_arrays(path: Path) -> tuple[dict[str, Named], Counter[str]]:
    """Returns the arrays of images and of labels, and notes about ignored ones."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    arrays: dict[str, npt.NDArray[Any] | None] = {}
    for file in files:
        if file.suffix.lower() == ".npz":
            if len(files) > 1:
                raise UserError(f"{path}: expected .npy files or one .npz file, got {', '.join(file.name for file in files)}")
            arrays = _read_npz(file)
        else:
            arrays[file.stem if path.is_dir() else "images"] = _open_npy(file)
    found: dict[str, Named] = {"images": {}, "labels": {}}
    notes: Counter[str] = Counter()
    for name, array in arrays.items():
        kind, split = _kind_and_split(name)
        if kind is None or array is None:
            notes[f"arrays ignored, of other names than {NAMES}"] += 1
        elif split in found[kind]:
            raise UserError(f"{path}: expected one array of {split} {kind}, got {found[kind][split][0]!r} and {name!r}")
        else:
            found[kind][split] = name, array
    if not found["images"]:
        raise UserError(f"{path}: expected arrays named {NAMES}; got {', '.join(map(repr, arrays)) or 'none'}")
    return found, notes


def _kind_and_split(name: str) -> tuple[str | None, SplitName]:
    """Returns what an array holds, and of which split, according to its name."""
    words = [word for word in re.split(r"[_\-. ]+", name.lower()) if word]
    split: SplitName = next((SPLITS[word] for word in words if word in SPLITS), "train")
    return KINDS.get("_".join(word for word in words if word not in SPLITS)), split


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Converts errors for missing, irregular and damaged files to a UserError."""
    try:
        expect_file(path)
        with np.errstate(over="ignore"):  # damaged headers with impossible sizes
            yield
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except (*READ_ERRORS, *ARCHIVE_ERRORS) as error:
        raise UserError(f"{path}: damaged, or not a plain {path.suffix.lower()} file: {error}") from None


def _open_npy(path: Path) -> npt.NDArray[Any]:
    with _reading(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays, as .npz files do")
    return array


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any] | None]:
    """Returns the arrays of a .npz file by name; None for unrecognised names, whose arrays are not unpacked."""
    arrays: dict[str, npt.NDArray[Any] | None] = {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            arrays[name] = None
            if _kind_and_split(name)[0] is None:
                continue
            # Unpacks at most the size in the archive's directory, even if the array's header claims more.
            if member.file_size > MAX_BYTES:
                most, got = f"{MAX_BYTES:,} bytes unpacked", f"{member.file_size:,}; a .npy file can be larger"
                raise UserError(f"{path}: {member.filename}: expected at most {most}, got {got}")
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays
