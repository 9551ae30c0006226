"""Prepared images as tensors: bytes on the device, and the floats that they stand for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.data.prepared import Bytes


def to_device(images: Bytes, device: torch.device) -> Tensor:
    """Images as one tensor of bytes, [N, pixels], on the device."""
    return torch.from_numpy(np.array(images)).flatten(1).to(device)


def as_float(pixels: Tensor) -> Tensor:
    """Bytes 0..255 as float32 in [0, 1]: a quotient everywhere, where a GPU would multiply by a number's reciprocal."""
    return pixels / torch.full((), 255.0, device=pixels.device)
