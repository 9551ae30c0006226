"""Prepared images as tensors: bytes on the device, and floats in [0, 1]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.data.prepared import Bytes


def to_device(images: Bytes, device: torch.device) -> Tensor:
    """Copies images to the device as one tensor of bytes, [N, pixels]."""
    return torch.from_numpy(np.array(images)).flatten(1).to(device)


def as_float(pixels: Tensor) -> Tensor:
    """Converts bytes 0..255 to float32 in [0, 1]; dividing by a tensor, as a GPU multiplies by a scalar's reciprocal."""
    return pixels / torch.full((), 255.0, device=pixels.device)
