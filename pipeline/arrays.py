"""Images in arrays: .npy and .npz files, with labels beside them or without."""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.cli import UserError
from pipeline.data import Bytes, Split
from pipeline.raw import MOST_BYTES, Part, Raw, numbered, shown

SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
KINDS = {
    **dict.fromkeys(["x", "image", "images", "imgs", "data", "arr_0"], "images"),
    **dict.fromkeys(["y", "label", "labels", "target", "targets", "arr_1"], "labels"),
}
# What NumPy raises for files that are not what they should be.
DAMAGE = (ValueError, EOFError, OSError, OverflowError, MemoryError, tokenize.TokenError)
NAMES = "images and labels (or x and y, data and target), for splits with _train, _validation, _test after or before"


class ArrayImages:
    """Images [N, H, W], [N, H, W, C] or, as rows of numbers, [N, D]; bytes, booleans, or floats in [0, 1].

    [N, C, H, W] is understood too, where it can mean nothing else.

    Args:
        name: for messages.
        array: in memory, or mapped into it.
        size: the images' [H, W], which rows of numbers do not tell; None: as the array says, or of one row each.

    Raises:
        UserError: if that is not what the array is.
    """

    def __init__(self, name: str, array: npt.NDArray[Any], size: Sequence[int] | None) -> None:
        self.name, self.array, self.notes = name, array, Counter[str]()
        kinds = "[N, H, W], [N, H, W, C] or [N, D]"
        if array.ndim not in (2, 3, 4) or 0 in array.shape[1:]:
            raise UserError(f"{name}: expected images {kinds}, got {shown(array.shape)}")
        if array.dtype != np.uint8 and array.dtype.kind not in "bf":
            raise UserError(f"{name}: expected bytes (uint8), booleans or floats in [0, 1], got {array.dtype}")
        if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
            self.array = array = np.moveaxis(array, 1, 3)
        if array.ndim == 4 and array.shape[3] not in (1, 3):
            raise UserError(f"{name}: expected images [N, H, W, C] of 1 or 3 colours, got {shown(array.shape)}")
        if array.ndim == 2:
            self.shape: tuple[int, ...] = (1, array.shape[1]) if size is None else tuple(size)
            if math.prod(self.shape) != array.shape[1]:
                wanted = f"a height and a width of {array.shape[1]} pixels"
                raise UserError(f"{name}: data.size: expected {wanted}, got {list(self.shape)}")
        else:
            self.shape = array.shape[1:3] if array.ndim == 3 or array.shape[3] == 1 else (3, *array.shape[1:3])
            if size is not None and tuple(size) != self.shape[-2:]:
                raise UserError(
                    f"{name}: expected images of {shown(tuple(size))}, since arrays are not resized, got {shown(self.shape)}"
                )

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: npt.NDArray[np.int64]) -> Bytes:
        part: Bytes = self._as_bytes(np.asarray(self.array[rows]), rows)
        return (np.moveaxis(part, 3, 1) if len(self.shape) == 3 else part).reshape(-1, *self.shape)

    def _as_bytes(self, part: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> Bytes:
        if part.dtype == np.uint8:
            return part
        if part.dtype == np.bool_:
            return part.astype(np.uint8) * 255
        wrong = ~((part >= 0) & (part <= 1))  # no number is neither
        if wrong.any():
            row, *_ = np.argwhere(wrong)[0]
            positive = np.isfinite(part).all() and part.min() >= 0
            white = 255 if positive and part.max() > 100 else part.max()
            hint = f"; divide them by {white:g}, if that is white" if positive else ""
            raise UserError(f"{self.name}: expected floats in [0, 1], got {part[wrong][0]:g} in image {rows[row]}{hint}")
        levels: Bytes = np.rint(part * 255).astype(np.uint8)
        # To the precision that the floats came in.
        rounded = np.abs(levels / 255 - part).reshape(len(part), -1).max(1) > 1e-3
        self.notes["images whose grey values were rounded to one of 256"] += int(rounded.sum())
        return levels


def read_arrays(path: Path, size: Sequence[int] | None, labelled: bool = True) -> Raw:
    """Reads a .npy file of images, a .npz file, or a folder of .npy files, with arrays of the names that ``NAMES`` says.

    Nothing is unpickled, and nothing is unpacked to disk. Labels are left out unless ``labelled``.

    Raises:
        UserError: for what is missing, damaged, pickled, too large to unpack, or not named so.
    """
    arrays: Mapping[str, npt.NDArray[Any] | None]
    if path.suffix.lower() == ".npz":
        arrays = _archive(path)
    elif path.is_dir():
        arrays = {file.stem: _mapped(file) for file in sorted(path.glob("*.npy"))}
    else:
        arrays = {"images": _mapped(path)}
    found: dict[str, dict[Split, str]] = {"images": {}, "labels": {}}
    notes: Counter[str] = Counter()
    for name in arrays:
        kind, split = _meaning(name)
        if kind is None:
            notes[f"arrays ignored, of other names than {NAMES}"] += 1
        elif split in found[kind]:
            raise UserError(f"{path}: expected one array of {split} {kind}, got {found[kind][split]!r} and {name!r}")
        else:
            found[kind][split] = name

    def there(name: str) -> npt.NDArray[Any]:
        array = arrays[name]
        assert array is not None  # only those without a meaning are
        return array

    if "train" not in found["images"]:
        raise UserError(f"{path}: expected arrays named {NAMES}; got {', '.join(map(repr, arrays)) or 'none'}")
    images = {split: ArrayImages(f"{path}: {name}", there(name), size) for split, name in found["images"].items()}
    if not labelled or not found["labels"]:
        return Raw({split: Part(part, None) for split, part in images.items()}, None, notes)
    labels = {}
    for split, part in images.items():
        if split not in found["labels"]:
            raise UserError(f"{path}: expected labels for the {split} images, as for others, got none")
        name = found["labels"][split]
        values = there(name)
        if values.dtype.kind not in "iubU" or values.size != len(part) or values.shape[:1] != (len(part),):
            got = f"{values.dtype} {shown(values.shape)}"
            raise UserError(f"{path}: {name}: expected a whole number or name for each of {len(part)} images, got {got}")
        labels[split] = values.reshape(-1)
    classes, names = numbered(labels)
    return Raw({split: Part(part, classes[split]) for split, part in images.items()}, names, notes)


def _meaning(name: str) -> tuple[str | None, Split]:
    """What an array's name says that it holds, and of which split."""
    words = [word for word in re.split(r"[_\-. ]+", name.lower()) if word]
    split: Split = next((SPLITS[word] for word in words if word in SPLITS), "train")
    return KINDS.get("_".join(word for word in words if word not in SPLITS)), split


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays, as .npz files do")
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged, or not a plain .npy file: {error}") from None
    return array


def _archive(path: Path) -> dict[str, npt.NDArray[Any] | None]:
    """The arrays of a .npz file by their names; None for those of names that mean nothing here, which are not unpacked."""
    arrays: dict[str, npt.NDArray[Any] | None] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                arrays[name] = None
                if _meaning(name)[0] is None:
                    continue
                with archive.open(member) as file:
                    size = _announced(file)
                # What a member unpacks to is bounded by what the archive says of it, to which zipfile holds it.
                if max(size, member.file_size) > MOST_BYTES:
                    raise UserError(
                        f"{path}: {member.filename}: expected at most {MOST_BYTES:,} bytes unpacked, got "
                        f"{max(size, member.file_size):,}; a .npy file can be larger"
                    )
                if size > member.file_size:
                    raise ValueError(f"{member.filename} announces {size:,} bytes, and holds {member.file_size:,}")
                with archive.open(member) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: damaged, or not a plain .npz file: {error}") from None
    return arrays


def _announced(file: IO[bytes]) -> int:
    """The bytes that an array's header says it has."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"an array in version {version} of the format")
    shape, _, dtype = readers[version](file)
    if any(side < 0 for side in shape):
        raise ValueError(f"an array of shape {shape}")
    return math.prod(shape) * dtype.itemsize
