"""Reads a folder of pictures: PNG, JPEG, WebP and TIFF, with or without subfolders as classes."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.config.params import Data
from pipeline.data.prepared import Bytes, SplitName
from pipeline.data.readers.arrays import SPLITS
from pipeline.data.readers.raw import Brightness, Images, RawDataset, dataset, expect_size, format_shape, to_bytes
from pipeline.data.source import refuse_unreadable
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import expect_file

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}
FORMATS = ["PNG", "JPEG", "WEBP", "TIFF"]
# A small file can announce a picture that fills the memory. These limits replace Pillow's, which only warns.
MAX_PIXELS = 2**26
MAX_SIDE = 2**16  # bounds what resizing allocates in between: at most 1,024, the limit of data.size, x 2**16 pixels
Image.MAX_IMAGE_PIXELS = None

REMEDY = "data.size brings all to one size, data.color to one kind"
Fit = Literal["crop", "stretch"]
Color = Literal["grey", "rgb"]


class Pictures:
    """Picture files as images of one shape, [H, W] or [3, H, W].

    Args:
        paths: at least one.
        size: [height, width] to resize to; None: the first picture's, which all must have.
        fit: ``crop``: scaled to cover the size, then cropped to its centre; ``stretch``: scaled, ignoring the aspect ratio.
        color: ``grey`` or ``rgb`` to convert to; None: the first picture's, which all must have.
        white: pixel value of white; None: the largest value of the picture's bit depth.
        remedy: hint for the message about a picture of another shape.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: Sequence[int] | None,
        fit: Fit,
        color: Color | None,
        white: float | None,
        remedy: str = REMEDY,
    ) -> None:
        self.remedy = remedy
        self.paths, self.size, self.fit, self.color, self.white = paths, size, fit, color, white
        self.notes, self.brightest = Counter[str](), Brightness(0.0, 0.0, 255.0)
        self.shape = self._open(paths[0])[0].shape
        expect_size(str(paths[0]), self.shape)
        self.readers = ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: npt.NDArray[np.int64]) -> Bytes:
        images = np.empty((len(rows), *self.shape), np.uint8)
        paths = [self.paths[row] for row in rows]
        for i, (image, notes, brightest) in enumerate(self.readers.map(self._open, paths)):
            if image.shape != self.shape:
                wanted, got = format_shape(self.shape), format_shape(image.shape)
                raise UserError(f"{paths[i]}: expected {wanted} as in {self.paths[0]}, got {got}; {self.remedy}")
            images[i] = image
            self.notes.update(notes)
            self.brightest = max(self.brightest, brightest)
        return images

    def _open(self, path: Path) -> tuple[Bytes, list[str], Brightness]:
        """Returns a picture's pixels, notes on what was converted, and its brightest pixel."""
        try:
            expect_file(path)
            with Image.open(path, formats=FORMATS) as picture:
                return self._convert(path, picture)
        except UnidentifiedImageError:
            raise UserError(f"{path}: expected a picture, PNG, JPEG, WebP or TIFF; its content is none") from None
        except FileNotFoundError:
            raise UserError(f"{path}: missing") from None
        # Exceptions that Pillow's decoders raise for damaged files.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
            raise UserError(f"{path}: damaged: {error}") from None

    def _convert(self, path: Path, picture: Image.Image) -> tuple[Bytes, list[str], Brightness]:
        notes = []
        cut = any(";16" in str(part) for part in picture.tile)  # type: ignore[attr-defined]  # Pillow's raw mode: the file's bit depth
        if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE:
            most = f"{MAX_PIXELS:,} pixels, {MAX_SIDE:,} per side"
            raise UserError(f"{path}: expected a picture of at most {most}, got {picture.width:,} x {picture.height:,}")
        if picture.format == "MPO":  # a JPEG followed by others, as many phones write
            notes.append("pictures with others in their file, which were left out")
        elif getattr(picture, "n_frames", 1) > 1:
            raise UserError(f"{path}: expected one picture per file, got {picture.n_frames}")  # type: ignore[attr-defined]
        image = ImageOps.exif_transpose(picture)
        if image.mode in ("I", "F"):
            raise UserError(f"{path}: expected a picture of 8 or 16 bits per channel, got mode {image.mode}")
        if image.has_transparency_data:
            notes.append("pictures with transparency, which was left out; put them on a background first, if that matters")
        if deep := image.mode.startswith("I;16"):  # grey; Pillow keeps no other mode of more than 8 bits
            cut, brightest, white = self.white is None, int(np.asarray(image).max()), self.white or 65535.0
        else:
            image = _to_mode(image, "RGBA" if image.mode == "P" else image.mode)
            image = _to_mode(image, "L" if image.mode in ("1", "L", "LA") else "RGB")
            brightest, white = int(np.max(image.getextrema())), self.white or 255.0
        if self.white is not None and picture.mode != "1":
            if cut:
                raise UserError(f"{path}: expected grey for data.white, since of colours of 16 bits only the upper 8 are read")
            levels, wrong = to_bytes(np.arange(brightest + 1), white)
            if wrong.any():
                raise UserError(f"{path}: expected values in [0, {white:g}], as data.white says, got {brightest}")
            image = Image.fromarray(levels[np.asarray(image)])
        elif deep:
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if cut:
            notes.append("pictures of 16 bits, of which the upper 8 were taken")
        image = _to_mode(image, {"grey": "L", "rgb": "RGB", None: image.mode}[self.color])
        if self.size is not None and image.size != (wanted := (self.size[1], self.size[0])):
            cut_or_not = ImageOps.fit if self.fit == "crop" else Image.Image.resize
            image = cut_or_not(image, wanted, Image.Resampling.BICUBIC)
        array = np.asarray(image)
        return (array if array.ndim == 2 else np.moveaxis(array, 2, 0)), notes, Brightness(brightest / white, brightest, white)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image to a mode; Pillow would copy one that already has it."""
    return image if image.mode == mode else image.convert(mode)


def read_folder(root: Path, params: Data) -> RawDataset:
    """Finds a folder's pictures. Its subfolders are classes or, if all are named like splits and one is ``train``, splits.

    Splits may have classes in them. One class may be named like a split, as in COCO; several such among others are an error.

    Raises:
        UserError: if there are no pictures, if a class folder is empty, or if pictures lie beside class folders.
    """
    notes: Counter[str] = Counter()
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    named_splits = [SPLITS.get(path.name.lower()) for path in folders]
    found: dict[SplitName, dict[str | None, list[Path]]] = {}
    if "train" in named_splits and None not in named_splits:
        for path in folders:
            split = SPLITS[path.name.lower()]
            if split in found:
                raise UserError(
                    f"{path}: expected one folder each for train, validation and test in {root}, got two for {split}"
                )
            found[split] = _classes(path, notes)
        if loose := pictures_in(root, notes, deep=False):
            raise UserError(f"{loose[0]}: expected no picture beside the folders of train, validation and test")
    else:
        if "train" in named_splits and len(set(named_splits) - {None}) > 1:
            others = ", ".join(path.name for path, split in zip(folders, named_splits, strict=True) if split is None)
            raise UserError(f"{root}: expected train, validation and test alone, or classes alone, got {others} beside them")
        found["train"] = _classes(root, notes)
        if split_names := [path.name for path, split in zip(folders, named_splits, strict=True) if split is not None]:
            notes[f"folders taken as classes, {', '.join(split_names)} among them, since others lie beside"] += len(folders)
    named = {split: classes for split, classes in found.items() if None not in classes}
    if named and len(named) < len(found):
        raise UserError(f"{root}: expected classes in each of {', '.join(found)} or in none, got them in {', '.join(named)}")
    images: dict[SplitName, Images] = {}
    labels: dict[SplitName, npt.NDArray[np.str_]] = {}
    for split, classes in found.items():
        paths = [path for group in classes.values() for path in group]
        images[split] = Pictures(paths, params.size, params.fit, params.color, params.white)
        if named:
            labels[split] = np.repeat(np.array(list(classes), str), [len(group) for group in classes.values()])
    return dataset(images, labels, notes)


def _classes(root: Path, notes: Counter[str]) -> dict[str | None, list[Path]]:
    """Returns the pictures by class, or all under None if there are no subfolders."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    direct = pictures_in(root, notes, deep=False)
    if folders and direct:
        raise UserError(
            f"{root}: expected either pictures or a folder for each class, got {direct[0].name} beside {folders[0].name}/"
        )
    found: dict[str | None, list[Path]] = {path.name: pictures_in(path, notes) for path in folders} or {None: direct}
    for path, group in zip(folders or [root], found.values(), strict=True):
        if not group:
            what = "a class of pictures; remove the folder, if it is none" if folders else "pictures"
            raise UserError(f"{path}: expected {what}; got no PNG, JPEG, WebP or TIFF file")
    return found


def pictures_in(folder: Path, notes: Counter[str], deep: bool = True) -> list[Path]:
    """Returns a folder's pictures sorted by path, including subfolders if ``deep``; counts ignored files in ``notes``."""
    found = []
    for root, folders, files in os.walk(folder, onerror=refuse_unreadable):
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        for name in folders:
            if Path(root, name).is_symlink():
                notes["folders not entered, since they are links"] += 1
        for path in (Path(root, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                found.append(path)
            else:
                notes["files ignored that are no PNG, JPEG, WebP or TIFF"] += 1
    return sorted(found)
