"""Images as they come: what the reader of every format gives, how large a thing it will open, and how values become bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data.prepared import Bytes, SplitName
from pipeline.runtime.errors import UserError

MAX_BYTES = 8 * 2**30  # of an array that has to be unpacked into memory; larger ones can be .npy files, which are mapped
MAX_VALUES = 3 * 2**20  # of an image: 1,024 x 1,024 in colour


class Brightness(NamedTuple):
    """The brightest of some pixels. The first field orders them, since a data set may have pixels of several kinds."""

    share: float  # of white
    value: float
    white: float


class Images(Protocol):
    """Images in some order, of one shape: [H, W], or [C, H, W] in colour."""

    shape: tuple[int, ...]
    notes: Counter[str]  # what was done to how many of those that have been read

    @property
    def brightest(self) -> Brightness:
        """Of the pixels of those that have been read."""

    def __len__(self) -> int: ...

    def read(self, rows: npt.NDArray[np.int64]) -> Bytes:
        """Those of these rows, [n, *shape].

        Raises:
            UserError: for what is no image; the message names it.
        """


@dataclass(frozen=True)
class RawSplit:
    """Images, and the number of each one's class, int64 [N], if they have any."""

    images: Images
    classes: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class RawDataset:
    """A data set: its training images and, where it has them of its own, those for validation and test."""

    splits: Mapping[SplitName, RawSplit]
    names: list[str] | None  # of the classes
    notes: Counter[str]
    mixed: bool  # whether the images come in a random order, of which the last are as good as any


def expect_size(name: str, shape: tuple[int, ...]) -> None:
    """Raises UserError for an image that is too large to be one, before anything is made of its size."""
    if (values := math.prod(shape)) > MAX_VALUES:
        raise UserError(
            f"{name}: expected images of at most {MAX_VALUES:,} values, got {format_shape(shape)}, which are {values:,}"
        )


def as_batch(images: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Images for a model, one or several, as a view of them [N, *shape] or, where they are flat, [N, D].

    Args:
        images: [N, *shape] or [N, D]; of [3, H, W] also [N, H, W, 3], of [H, W] also [N, 1, H, W] or [N, H, W, 1]; or one of
            these. Others stay as they are.
        shape: the model's, [H, W] or [3, H, W].
    """
    flat, last = (math.prod(shape),), (*shape[-2:], math.prod(shape[:-2]))
    first = (math.prod(shape[:-2]), *shape[-2:])
    for several in (images, images[None]):
        layout = several.shape[1:]
        if layout in (shape, flat):
            return several
        if layout in (first, last):
            return (np.moveaxis(several, -1, 1) if layout == last else several).reshape(-1, *shape)
    return images


def to_bytes(values: npt.NDArray[Any], white: float) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Values from 0, black, to ``white`` as the nearest of 256 bytes, and which have none, being out of range or no number."""
    with np.errstate(all="ignore"):
        levels = np.rint(values.astype(np.result_type(values, np.float32)) * 255 / white)
    wrong = ~((levels >= 0) & (levels <= 255))
    return np.where(wrong, 0, levels).astype(np.uint8), wrong


def format_shape(shape: tuple[int, ...]) -> str:
    """A shape, for people."""
    return " x ".join(map(str, shape)) or "a single number"


def dataset(
    images: Mapping[SplitName, Images],
    labels: Mapping[SplitName, npt.NDArray[np.generic]],
    notes: Counter[str],
    mixed: bool = False,
) -> RawDataset:
    """A data set of images with labels of any kind, which become the numbers of classes, or without any.

    Args:
        labels: of each of the images' splits, or none.
        mixed: as of :class:`RawDataset`.
    """
    if not labels:
        return RawDataset({split: RawSplit(part, None) for split, part in images.items()}, None, notes, mixed)
    kind = str if any(part.dtype.kind == "U" for part in labels.values()) else np.int64
    alike = {split: part.astype(kind) for split, part in labels.items()}
    values = np.unique(np.concatenate(list(alike.values())))
    splits = {split: RawSplit(part, np.searchsorted(values, alike[split])) for split, part in images.items()}
    return RawDataset(splits, [str(value) for value in values], notes, mixed)
