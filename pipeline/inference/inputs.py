"""Images named on a command line: picture files, folders of them, arrays, one image of an array."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath

import numpy as np
from tqdm import tqdm

from pipeline.config.params import Data
from pipeline.config.paths import PREPARED
from pipeline.data.prepared import Bytes
from pipeline.data.readers.arrays import read_images
from pipeline.data.readers.image_folder import Color, Pictures, pictures_in
from pipeline.data.readers.raw import Images, format_shape
from pipeline.runtime.errors import UserError

READ_BATCH = 500
ARRAY = re.compile(r"(.+\.np[yz])(?::(\d+))?", re.IGNORECASE | re.DOTALL)  # with the row of one image
REMEDY = "--resize brings pictures to the model's size"


ImageBatch = tuple[int, list[str], list[PurePath], Bytes]


@dataclass(frozen=True)
class ImageGroup:
    """Images of one kind: their rows in ``images``, their names, and file names for their reconstructions."""

    images: Images
    rows: range
    names: list[str]
    files: list[PurePath]


class InputImages:
    """All images that a command line names, in order.

    Args:
        named: files, folders, or ``ARRAY.npy:17`` for one image of an array.
        shape: the model's image shape.
        data: the parameters with which the training data were read.
        resize: whether pictures are resized to the model's image shape.

    Raises:
        UserError: for missing files, and images of another shape.
    """

    def __init__(self, named: Sequence[str], shape: tuple[int, ...], data: Data, resize: bool) -> None:
        self.shape, self.data, self.resize, self.notes = shape, data, resize, Counter[str]()
        self.groups: list[ImageGroup] = []
        for array, names in groupby(named, key=ARRAY.fullmatch):
            if array is None:
                self._add_pictures([found for name in names for found in self._pictures(Path(name))])
            else:
                self._add_array(Path(array[1]), None if array[2] is None else int(array[2]))
        if len(self) == 0:
            raise UserError(f"{' '.join(named)}: expected at least one image, got none")

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self.groups)

    def _pictures(self, path: Path) -> list[tuple[Path, PurePath]]:
        if path.is_dir():
            if not (found := pictures_in(path, self.notes)):
                raise UserError(f"{path}: expected pictures in it, got no PNG, JPEG, WebP or TIFF file")
            return [(one, one.relative_to(path)) for one in found]
        if not path.exists():
            raise UserError(f"{path}: missing; expected a picture, a folder of them, or an array (.npy, .npz)")
        return [(path, PurePath(path.name))]

    def _add_pictures(self, found: list[tuple[Path, PurePath]]) -> None:
        paths = [path for path, _ in found]
        color: Color = "rgb" if len(self.shape) == 3 else "grey"
        size = self.shape[-2:] if self.resize or self.data.size is not None else None
        images = Pictures(paths, size, self.data.fit, color, self.data.white, REMEDY)
        if images.shape != self.shape:
            expected, got = format_shape(self.shape), format_shape(images.shape)
            raise UserError(f"{paths[0]}: expected {expected} as the model's images, got {got}; {REMEDY}")
        files = [file.with_suffix(".png") for _, file in found]
        self.groups.append(ImageGroup(images, range(len(paths)), [str(path) for path in paths], files))

    def _add_array(self, path: Path, row: int | None) -> None:
        # Arrays that the prepare stage wrote are scaled already, whatever data.white is.
        white = None if path.parent.resolve() == PREPARED.resolve() else self.data.white
        images = read_images(path, self.shape, white, "divide them by {:g}, if that is white")
        if images.shape != self.shape:
            kinds = ("colour", "grey") if len(self.shape) == 3 else ("grey", "colour")
            raise UserError(
                f"{path}: expected images in {kinds[0]}, as the model's, got them in {kinds[1]}; arrays are not converted, "
                "pictures (PNG, JPEG, WebP, TIFF) are"
            )
        if row is not None and row >= len(images):
            raise UserError(f"{path}:{row}: expected one of {len(images)} images, numbered from 0")
        rows = range(len(images)) if row is None else range(row, row + 1)
        files = [PurePath(f"{path.stem}-{i}.png") for i in rows]
        self.groups.append(ImageGroup(images, rows, [f"{path}:{i}" for i in rows], files))

    def batches(self, what: str) -> Iterator[ImageBatch]:
        """Yields batches of the first image's row, names, files and bytes [n, *shape], with a labelled progress bar.

        The row, which selects the noise, is an image's index in its array, or among the pictures.
        """
        with tqdm(total=len(self), unit=" images", disable=None, desc=what) as bar:
            for group in self.groups:
                for start in range(0, len(group.rows), READ_BATCH):
                    part = slice(start, start + READ_BATCH)
                    rows = group.rows[part]
                    yield rows[0], group.names[part], group.files[part], group.images.read(np.array(rows))
                    bar.update(len(rows))
        for group in self.groups:
            self.notes.update(group.images.notes)
        for note, count in (+self.notes).items():
            print(f"note: {count:,} {note}")
        _, value, white = max(group.images.brightest for group in self.groups)
        if self.data.white is None and 0 < value < white / 4:  # where the prepare stage would stop
            print(f"note: no pixel is above {value:g}, and white is {white:g}: are these images scaled?")
