"""Prepared images as tensors: bytes on the device, with their classes, and floats in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.prepared import Bytes, Classes


@dataclass(frozen=True)
class Examples:
    """Images as bytes [N, D], and their class numbers, int64 [N], or None."""

    pixels: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice | Tensor) -> Examples:
        """Selects rows."""
        return Examples(self.pixels[rows], None if self.labels is None else self.labels[rows])

    def split(self, size: int) -> Iterator[Examples]:
        """Yields consecutive batches of at most ``size``."""
        return (self[start : start + size] for start in range(0, len(self), size))


def to_device(images: Bytes, device: torch.device) -> Tensor:
    """Copies images to the device as one tensor of bytes, [N, pixels]."""
    return torch.from_numpy(np.array(images)).flatten(1).to(device)


def labels_to_device(labels: Classes | None, device: torch.device) -> Tensor | None:
    """Returns class numbers as an int64 tensor [N], the type that indexes tensors."""
    return None if labels is None else torch.from_numpy(labels.astype(np.int64)).to(device)


def as_float(pixels: Tensor) -> Tensor:
    """Converts bytes 0..255 to float32 in [0, 1]; dividing by a tensor, as a GPU multiplies by a scalar's reciprocal."""
    return pixels / torch.full((), 255.0, device=pixels.device)
