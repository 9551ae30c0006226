"""Noise streams: each use of the seed has its own, so that no two share random numbers."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from vae_ext import noise_key


class Stream(IntEnum):
    """Independent uses of the noise; each selects its own upper half of the 64-bit seed."""

    TRAIN = 0
    VALIDATE = 1
    EVALUATE = 2
    IMPORTANCE = 3
    PRIOR = 4
    ORDER = 5
    BINARIZE_TRAIN = 6
    BINARIZE_VALIDATE = 7
    BINARIZE_TEST = 8
    CORRUPT = 9
    PIXELS = 10
    BINARIZE_PROBE = 11


def stream_key(seed: int, stream: Stream, device: torch.device, step: int = 0) -> Tensor:
    """Returns the noise key of a stream: the seed in the lower 32 bits, the stream's number above."""
    return noise_key(seed + (int(stream) << 32), step, device=device)
