"""The images as training takes them, by row: bytes that lie on the device, or in a file that is read as they are needed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

import vae_ext
from pipeline.config.params import Params
from pipeline.data.prepared import Bytes, read_split
from pipeline.data.tensors import as_float, to_device
from pipeline.runtime.noise_streams import Stream, stream_key

Batch = tuple[Tensor, Tensor]


class InMemoryImages:
    """All images on the device."""

    def __init__(self, images: Bytes, device: torch.device) -> None:
        self.pixels = to_device(images, device)
        self.rows_device = device

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Tensor, draw_key: Tensor | None = None, row_offset: int = 0) -> Batch:
        """A batch.

        Args:
            rows: int64 [B], on ``rows_device``.
            draw_key: of the noise by which the pixels are drawn black or white; None: they stay as they are.
            row_offset: of that noise.

        Returns:
            the pixels, bytes [B, D], and the same as float32 in [0, 1].
        """
        return vae_ext.take_pixels(self.pixels, rows, draw_key, row_offset=row_offset)


class MemmapImages:
    """Images that stay on disk: each batch is read when it is needed or, in the background, while the one before is used.

    Args:
        images: [N, H, W], mapped into memory.
        device: where the batches go.
    """

    def __init__(self, images: Bytes, device: torch.device) -> None:
        self.images, self.device = images, device
        self.rows_device = torch.device("cpu")
        self.reader = ThreadPoolExecutor(max_workers=1)
        self.ahead: tuple[Tensor, Future[Bytes]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor, draw_key: Tensor | None = None, row_offset: int = 0) -> Batch:
        """As :meth:`InMemoryImages.take`."""
        ahead, self.ahead = self.ahead, None
        found = ahead[1].result() if ahead is not None and torch.equal(ahead[0], rows) else self._read(rows)
        pixels = torch.from_numpy(found).flatten(1).to(self.device)
        if draw_key is not None:
            pixels = vae_ext.binarize(pixels, draw_key, row_offset=row_offset)
        return pixels, as_float(pixels)

    def read_ahead(self, rows: Tensor) -> None:
        """Begins to read what the next :meth:`take` will ask for."""
        self.ahead = rows, self.reader.submit(self._read, rows)

    def _read(self, rows: Tensor) -> Bytes:
        # In the file's order, which spares the disk its seeks, and back.
        order = np.argsort(rows.numpy())
        found = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        found[order] = self.images[rows.numpy()[order]]
        return found


def byte_means(images: Bytes) -> Tensor:
    """The mean byte of each pixel, float64 [D]: of whole-number sums, so that neither device nor order moves a bit of it."""
    return torch.from_numpy(images.reshape(len(images), -1).sum(axis=0, dtype=np.int64) / len(images))


def test_pixels(params: Params, device: torch.device) -> Tensor:
    """The test set, [N, D], bytes; with ``binarize`` drawn once and for all."""
    pixels = to_device(read_split("test").images, device)
    return vae_ext.binarize(pixels, stream_key(params.seed, Stream.BINARIZE_TEST, device)) if params.binarize else pixels
