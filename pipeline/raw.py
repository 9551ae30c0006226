"""Images as they come: what the reader of every format gives, and how large a thing it will open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data import Bytes, Split

MOST_BYTES = 8 * 2**30  # of an array that has to be unpacked into memory; larger ones can be .npy files, which are mapped


class Images(Protocol):
    """Images in some order, of one shape: [H, W], or [C, H, W] in colour."""

    shape: tuple[int, ...]
    notes: Counter[str]  # what was done to how many of those that have been read

    def __len__(self) -> int: ...

    def read(self, rows: npt.NDArray[np.int64]) -> Bytes:
        """Those of these rows, [n, *shape].

        Raises:
            UserError: for what is no image; the message names it.
        """


@dataclass(frozen=True)
class Part:
    """Images, and the number of each one's class, int64 [N], if they have any."""

    images: Images
    classes: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Raw:
    """A data set: its training images and, where it has them of its own, those for validation and test."""

    parts: Mapping[Split, Part]
    names: list[str] | None  # of the classes
    notes: Counter[str] = field(default_factory=Counter)


def shown(shape: tuple[int, ...]) -> str:
    """A shape, for people."""
    return " x ".join(map(str, shape)) or "a single number"


def numbered(labels: Mapping[Split, npt.NDArray[np.generic]]) -> tuple[dict[Split, npt.NDArray[np.int64]], list[str]]:
    """Labels of any kind as the classes' numbers, and the classes' names, in order."""
    kind = str if any(part.dtype.kind == "U" for part in labels.values()) else np.int64
    alike = {split: part.astype(kind) for split, part in labels.items()}
    values = np.unique(np.concatenate(list(alike.values())))
    return {split: np.searchsorted(values, part) for split, part in alike.items()}, [str(value) for value in values]
