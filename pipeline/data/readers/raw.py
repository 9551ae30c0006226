"""Images before preparation: the interface of the readers, size limits, and the conversion of values to bytes."""

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

MAX_BYTES = 8 * 2**30  # of an array that must be unpacked into memory; larger data can be .npy files, which are memory-mapped
MAX_VALUES = 3 * 2**20  # per image: 1,024 x 1,024 in colour


class Brightness(NamedTuple):
    """The brightest pixel so far. Compared by the first field, since pictures of a data set may differ in bit depth."""

    share: float  # value / white
    value: float
    white: float


class Images(Protocol):
    """Images of one shape, [H, W], or [C, H, W] in colour, in a fixed order."""

    shape: tuple[int, ...]
    notes: Counter[str]  # what was converted or ignored, and in how many of the images read so far

    @property
    def brightest(self) -> Brightness:
        """The brightest pixel of the images read so far."""

    def __len__(self) -> int: ...

    def read(self, rows: npt.NDArray[np.int64]) -> Bytes:
        """Reads the images of these rows, [n, *shape].

        Raises:
            UserError: for an invalid image; the message names it.
        """


@dataclass(frozen=True)
class RawSplit:
    """Images, and their class numbers, int64 [N], or None."""

    images: Images
    classes: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class RawDataset:
    """A data set: its training images and, if it has its own, validation and test images."""

    splits: Mapping[SplitName, RawSplit]
    names: list[str] | None  # of the classes
    notes: Counter[str]
    mixed: bool  # whether the images are in random order, so that the last ones are a random sample


def expect_size(name: str, shape: tuple[int, ...]) -> None:
    """Raises a UserError if an image exceeds ``MAX_VALUES``, before memory is allocated for it."""
    if (values := math.prod(shape)) > MAX_VALUES:
        raise UserError(
            f"{name}: expected images of at most {MAX_VALUES:,} values, got {format_shape(shape)}, which are {values:,}"
        )


def as_batch(images: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Returns one or several images for a model as a view [N, *shape] or, if they are flat, [N, D].

    Args:
        images: [N, *shape] or [N, D]; for [3, H, W] also [N, H, W, 3], for [H, W] also [N, 1, H, W] or [N, H, W, 1]; or a
            single image of these. Other shapes are returned unchanged.
        shape: the model's image shape, [H, W] or [3, H, W].
    """
    flat, last = (math.prod(shape),), (*shape[-2:], math.prod(shape[:-2]))
    first = (math.prod(shape[:-2]), *shape[-2:])
    for batch in (images, images[None]):
        layout = batch.shape[1:]
        if layout in (shape, flat):
            return batch
        if layout in (first, last):
            return (np.moveaxis(batch, -1, 1) if layout == last else batch).reshape(-1, *shape)
    return images


def to_bytes(values: npt.NDArray[Any], white: float) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Rounds values in [0, white] to bytes; also returns a mask of the values that are out of range or NaN."""
    with np.errstate(all="ignore"):
        levels = np.rint(values.astype(np.result_type(values, np.float32)) * 255 / white)
    wrong = ~((levels >= 0) & (levels <= 255))
    return np.where(wrong, 0, levels).astype(np.uint8), wrong


def format_shape(shape: tuple[int, ...]) -> str:
    """Formats a shape for messages."""
    return " x ".join(map(str, shape)) or "a single number"


def dataset(
    images: Mapping[SplitName, Images],
    labels: Mapping[SplitName, npt.NDArray[np.generic]],
    notes: Counter[str],
    mixed: bool = False,
) -> RawDataset:
    """Builds a data set of images and labels of any type, which become class numbers, or without labels.

    Args:
        labels: for each split of the images, or empty.
        mixed: see :class:`RawDataset`.
    """
    if not labels:
        return RawDataset({split: RawSplit(part, None) for split, part in images.items()}, None, notes, mixed)
    kind = str if any(part.dtype.kind == "U" for part in labels.values()) else np.int64
    comparable = {split: part.astype(kind) for split, part in labels.items()}
    values = np.unique(np.concatenate(list(comparable.values())))
    splits = {split: RawSplit(part, np.searchsorted(values, comparable[split])) for split, part in images.items()}
    return RawDataset(splits, [str(value) for value in values], notes, mixed)
